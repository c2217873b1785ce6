//! Decoding in a thread of its own.

use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use crate::Result;
use crate::decode::{DecodeOptions, Event, Reader};
use crate::windows::WindowPlan;

/// Events in the queue at most; a frame of 8 megapixels takes 25 MB.
const QUEUE_LENGTH: usize = 4;

/// Calls `take` with every event of a file, and with the time spent waiting for it.
///
/// # Errors
/// The first error of the reader or of `take`; the other side then stops too.
pub(super) fn for_each_event(
    path: &Path,
    plan: &WindowPlan,
    options: &DecodeOptions,
    mut take: impl FnMut(Event, Duration) -> Result<()>,
) -> Result<()> {
    std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel(QUEUE_LENGTH);
        scope.spawn(move || match Reader::open(path, plan.clone(), options) {
            Ok(mut reader) => {
                while reader.next().is_some_and(|event| sender.send(event).is_ok()) {}
            }
            // If the receiver is gone, the other side has failed and reports its own error.
            Err(error) => drop(sender.send(Err(error))),
        });
        // The receiver is dropped on return, so that a waiting sender gives up.
        let receiver = receiver;
        loop {
            let start = Instant::now();
            let Ok(event) = receiver.recv() else { return Ok(()) };
            take(event?, start.elapsed())?;
        }
    })
}
