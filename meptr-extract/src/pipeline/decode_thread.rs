//! Decoding in a thread of its own.

use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use crate::Result;
use crate::decode::{DecodeOptions, Event, FramePlan, Reader};

/// Events that may wait; a frame of 8 megapixels takes 25 MB.
const LENGTH: usize = 4;

/// Hands every event of a file to `take`, with the time that was spent waiting for it.
///
/// # Errors
/// The first error of the reader or of `take`; the other side then stops too.
pub(super) fn for_each_event(
    path: &Path,
    plan: &FramePlan,
    options: &DecodeOptions,
    mut take: impl FnMut(Event, Duration) -> Result<()>,
) -> Result<()> {
    std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel(LENGTH);
        scope.spawn(move || match Reader::open(path, plan.clone(), options) {
            Ok(mut reader) => {
                while reader.next().is_some_and(|event| sender.send(event).is_ok()) {}
            }
            // Nobody listens any more: the other side has failed and says so itself.
            Err(error) => drop(sender.send(Err(error))),
        });
        // The receiver is dropped on the way out, so that a sender that waits gives up.
        let receiver = receiver;
        loop {
            let start = Instant::now();
            let Ok(event) = receiver.recv() else { return Ok(()) };
            take(event?, start.elapsed())?;
        }
    })
}
