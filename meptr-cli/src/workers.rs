//! Several devices at work on one list of videos.

use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, mpsc};

use clap::Args;
use meptr_core::kernels::cpu::has_bf16;
use meptr_core::{DeviceChoice, Precision};
use meptr_extract::extractor::Place;

/// Which devices to use, and with which numbers.
#[derive(Debug, Args)]
pub struct DeviceArgs {
    /// Where to compute: auto, cpu, or cuda:N; several, with commas between, share the videos
    #[arg(long, value_name = "DEVICE", default_value = "auto", value_delimiter = ',')]
    pub device: Vec<DeviceChoice>,
    /// Numbers that the backbones compute with: f32, bf16 on a GPU or a processor with AMX, f16 on
    /// a GPU
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    pub precision: Precision,
}

impl DeviceArgs {
    /// Opens a device.
    ///
    /// # Errors
    /// When it cannot be had, or not with these numbers.
    pub fn place(&self, device: DeviceChoice) -> anyhow::Result<Place> {
        let device = device.open()?;
        self.check(!device.is_cpu())?;
        Ok(Place { device, precision: self.precision })
    }

    /// Threads to decode each video with.
    pub fn decoder_threads(&self, is_on_gpu: bool) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        decoder_threads(cores, self.device.len(), is_on_gpu)
    }

    /// Refuses shorter numbers where they are slower and less exact.
    ///
    /// # Errors
    /// When that is what is asked for.
    pub fn check(&self, is_on_gpu: bool) -> anyhow::Result<()> {
        let is_fast = match self.precision {
            Precision::F32 => true,
            Precision::Bf16 => is_on_gpu || has_bf16(),
            Precision::F16 => is_on_gpu,
        };
        anyhow::ensure!(
            is_fast,
            "--precision f16 needs a GPU, and bf16 a GPU or a processor with AMX: give f32"
        );
        Ok(())
    }
}

/// Threads that decode each of the videos which `workers` read at a time on a machine with `cores`.
///
/// A GPU mostly waits for decoders; beside a processor's backbones, more than 2 threads have no core.
fn decoder_threads(cores: usize, workers: usize, is_on_gpu: bool) -> usize {
    if is_on_gpu { (cores / workers.max(1)).clamp(2, 8) } else { 2 }
}

/// Opens a worker for each choice, all at the same time.
///
/// # Errors
/// The first choice's that cannot be met.
pub fn open_all<C: Send, W: Send>(
    choices: Vec<C>,
    open: impl Fn(C) -> anyhow::Result<W> + Sync,
) -> anyhow::Result<Vec<W>> {
    std::thread::scope(|scope| {
        let opening: Vec<_> =
            choices.into_iter().map(|choice| scope.spawn(|| open(choice))).collect();
        let opened = opening.into_iter();
        opened.map(|worker| worker.join().expect("opening reports failures as errors")).collect()
    })
}

/// Videos that the processor reads at a time: while one waits for a step that takes one core, the
/// other has work for all.
const VIDEOS_ON_CPU: usize = 2;

/// Those who work: one for each opened device, on the processor [`VIDEOS_ON_CPU`].
pub fn workers_of<W>(opened: &[W], is_on_cpu: impl Fn(&W) -> bool) -> Vec<&W> {
    let count = |one: &W| if is_on_cpu(one) { VIDEOS_ON_CPU } else { 1 };
    opened.iter().flat_map(|one| std::iter::repeat_n(one, count(one))).collect()
}

/// Hands tasks to workers, each with a thread of its own, as they come free; `take` gets the
/// results on this thread, in the order of the tasks. Once `stop` is set, no further task is begun.
///
/// # Errors
/// The first error of `take`; what is under way ends first.
pub fn share_out<W: Send, T: Send, R: Send>(
    workers: Vec<W>,
    tasks: Vec<T>,
    stop: &AtomicBool,
    work: impl Fn(&W, T) -> R + Sync,
    mut take: impl FnMut(R) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let queue: Mutex<VecDeque<(usize, T)>> = Mutex::new(tasks.into_iter().enumerate().collect());
    let next = || match stop.load(Ordering::Relaxed) {
        true => None,
        false => queue.lock().expect("nothing panics with the lock").pop_front(),
    };
    std::thread::scope(|scope| {
        let (sender, results) = mpsc::channel();
        for worker in workers {
            let (sender, work, next) = (sender.clone(), &work, &next);
            scope.spawn(move || {
                while let Some((number, task)) = next() {
                    if sender.send((number, work(&worker, task))).is_err() {
                        break; // `take` has failed
                    }
                }
            });
        }
        drop(sender); // so that the results end with the last worker
        let (mut waiting, mut due) = (BTreeMap::new(), 0);
        for (number, result) in results {
            waiting.insert(number, result);
            while let Some(result) = waiting.remove(&due) {
                take(result)?;
                due += 1;
            }
        }
        Ok(())
    })
}

/// Does the work on a video; a panic in it, ours or of a library, is that video's failure alone.
///
/// # Errors
/// That of the work, or what it panicked with.
pub fn guarded<R>(video: &Path, work: impl FnOnce() -> anyhow::Result<R>) -> anyhow::Result<R> {
    let message = |panic: Box<dyn Any + Send>| match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => {
            panic.downcast::<&str>().map_or_else(|_| String::new(), |text| (*text).into())
        }
    };
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let (video, message) = (video.display(), message(panic));
        anyhow::bail!("`{video}` meets a defect of meptr, please report it: {message}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_share_the_tasks_and_results_keep_their_order() {
        let mut taken = Vec::new();
        let begun = Mutex::new(Vec::new());
        // The first task waits until the other worker has done all others.
        let (is_done, wait) = mpsc::channel();
        let (is_done, wait) = (Mutex::new(is_done), Mutex::new(wait));
        let work = |worker: &u8, task: usize| {
            begun.lock().unwrap().push((*worker, task));
            match task {
                0 => wait.lock().unwrap().recv().unwrap(),
                19 => is_done.lock().unwrap().send(()).unwrap(),
                _ => {}
            }
            task * 2
        };
        let take = |result| {
            taken.push(result);
            Ok(())
        };
        share_out(vec![1, 2], (0..20).collect(), &AtomicBool::new(false), work, take).unwrap();
        assert!(taken.into_iter().eq((0..20).map(|task| task * 2)));
        let begun = begun.into_inner().unwrap();
        let slow = begun.iter().find(|(_, task)| *task == 0).unwrap().0;
        assert_eq!(begun.iter().filter(|(worker, _)| *worker == slow).count(), 1);
    }

    #[test]
    fn a_panic_fails_one_task_alone() {
        let work = |_: &(), task: usize| {
            guarded("a.mp4".as_ref(), || {
                assert_ne!(task, 3, "third time unlucky");
                Ok(task)
            })
        };
        let mut taken = Vec::new();
        let take = |result: anyhow::Result<usize>| {
            taken.push(result.map_err(|error| error.to_string()));
            Ok(())
        };
        let go_on = AtomicBool::new(false);
        share_out(vec![(), ()], (0..6).collect(), &go_on, work, take).unwrap();
        assert_eq!(taken.iter().filter(|result| result.is_ok()).count(), 5);
        let error = taken[3].as_ref().unwrap_err();
        for part in ["a.mp4", "third time unlucky", "report"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_failure_ends_it_and_is_told() {
        let go_on = AtomicBool::new(false);
        let mut taken = 0;
        let take = |_| {
            taken += 1;
            anyhow::ensure!(taken < 4, "the disk is full");
            Ok(())
        };
        let result = share_out(vec![()], (0..1000).collect(), &go_on, |_, task: usize| task, take);
        assert_eq!(result.unwrap_err().to_string(), "the disk is full");
        assert_eq!(taken, 4);
    }

    #[test]
    fn nothing_is_begun_after_a_stop() {
        let stop = AtomicBool::new(false);
        let mut taken = 0;
        let work = |_: &(), task: usize| stop.store(task == 4, Ordering::Relaxed);
        let take = |()| {
            taken += 1;
            Ok(())
        };
        share_out(vec![()], (0..100).collect(), &stop, work, take).unwrap();
        assert_eq!(taken, 5);
    }

    #[test]
    fn a_gpu_alone_on_a_large_machine_has_many_decoder_threads() {
        for (cores, workers, threads) in [(2, 1, 2), (16, 1, 8), (16, 4, 4), (16, 8, 2), (4, 9, 2)]
        {
            assert_eq!(decoder_threads(cores, workers, true), threads);
            assert_eq!(decoder_threads(cores, workers, false), 2);
        }
    }

    #[test]
    fn all_workers_open_or_the_first_failure_is_told() {
        let open = |number: usize| {
            anyhow::ensure!(number < 2, "there is no device {number}");
            Ok(number)
        };
        assert_eq!(open_all(vec![0, 1, 0], open).unwrap(), [0, 1, 0]);
        let error = open_all(vec![0, 3, 2], open).unwrap_err();
        assert_eq!(error.to_string(), "there is no device 3");
    }
}
