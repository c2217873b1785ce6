//! Workers on one or several devices, and the order of their results.

use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, mpsc};

use clap::Args;
use meptr_core::kernels::cpu::has_bf16;
use meptr_core::{DeviceChoice, Precision};
use meptr_extract::pipeline::ComputeTarget;

/// Devices and data type of the backbones.
#[derive(Debug, Args)]
pub struct DeviceArgs {
    /// Device: auto, cpu, or cuda:N; several, separated by commas, share the videos
    #[arg(long, value_name = "DEVICE", default_value = "auto", value_delimiter = ',')]
    pub device: Vec<DeviceChoice>,
    /// Data type of the backbones: f32, bf16 on a GPU or a CPU with AMX, f16 on a GPU
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    pub precision: Precision,
}

impl DeviceArgs {
    /// Opens all devices, before any weights are loaded.
    ///
    /// # Errors
    /// When a device is not available, or does not support the data type.
    pub fn open(&self) -> anyhow::Result<Vec<ComputeTarget>> {
        open_all(self.device.clone(), |choice| {
            let device = choice.open()?;
            check_precision(self.precision, !device.is_cpu())?;
            Ok(ComputeTarget { device, precision: self.precision })
        })
    }

    /// Threads of the decoder of each video.
    pub fn decoder_threads(&self, is_on_gpu: bool) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        decoder_threads(cores, self.device.len(), is_on_gpu)
    }
}

/// Refuses data types that are slower and less exact than f32 on the device.
///
/// # Errors
/// When the data type is one of those.
fn check_precision(precision: Precision, is_on_gpu: bool) -> anyhow::Result<()> {
    match precision {
        Precision::Bf16 if !is_on_gpu && !has_bf16() => {
            anyhow::bail!("--precision bf16 needs a GPU, or a processor with AMX: give f32")
        }
        Precision::F16 if !is_on_gpu => anyhow::bail!("--precision f16 needs a GPU: give f32"),
        _ => Ok(()),
    }
}

/// Decoder threads per video on a machine with `cores`, on which `workers` read one video each.
///
/// A GPU mostly waits for decoders. On a CPU the backbones use all cores, so 2 threads suffice.
fn decoder_threads(cores: usize, workers: usize, is_on_gpu: bool) -> usize {
    if is_on_gpu { (cores / workers.max(1)).clamp(2, 8) } else { 2 }
}

/// Opens a worker for each target, all at the same time.
///
/// # Errors
/// The first error, in the order of the targets.
pub fn open_all<T: Send, W: Send>(
    targets: Vec<T>,
    open: impl Fn(T) -> anyhow::Result<W> + Sync,
) -> anyhow::Result<Vec<W>> {
    std::thread::scope(|scope| {
        let opening: Vec<_> =
            targets.into_iter().map(|target| scope.spawn(|| open(target))).collect();
        let opened = opening.into_iter();
        opened.map(|worker| worker.join().expect("opening reports failures as errors")).collect()
    })
}

/// Videos that a CPU processes at a time: while one is in a step that takes one core, the other uses
/// the rest.
const VIDEOS_ON_CPU: usize = 2;

/// Workers of opened devices: one per GPU, [`VIDEOS_ON_CPU`] per CPU.
pub fn workers_per_device<W>(opened: &[W], is_on_cpu: impl Fn(&W) -> bool) -> Vec<&W> {
    let count = |one: &W| if is_on_cpu(one) { VIDEOS_ON_CPU } else { 1 };
    opened.iter().flat_map(|one| std::iter::repeat_n(one, count(one))).collect()
}

/// Runs tasks on workers, each with a thread of its own, and calls `take` with the results, on this
/// thread and in the order of the tasks. After `stop` is set, no further task starts.
///
/// # Errors
/// The first error of `take`; running tasks end first.
pub fn run_ordered<W: Send, T: Send, R: Send>(
    workers: Vec<W>,
    tasks: Vec<T>,
    stop: &AtomicBool,
    work: impl Fn(&W, T) -> R + Sync,
    mut take: impl FnMut(R) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let queue: Mutex<VecDeque<(usize, T)>> = Mutex::new(tasks.into_iter().enumerate().collect());
    let next = || match stop.load(Ordering::Relaxed) {
        true => None,
        false => queue.lock().expect("nothing panics while it holds the lock").pop_front(),
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

/// Runs the work on a video; a panic in it becomes an error of that video.
///
/// # Errors
/// The error of the work, or the message of the panic.
pub fn catch_panic<R>(video: &Path, work: impl FnOnce() -> anyhow::Result<R>) -> anyhow::Result<R> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let (video, message) = (video.display(), panic_message(panic));
        anyhow::bail!("`{video}` triggers a defect of meptr, please report it: {message}")
    })
}

fn panic_message(panic: Box<dyn Any + Send>) -> String {
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => {
            panic.downcast::<&str>().map_or_else(|_| String::new(), |text| (*text).into())
        }
    }
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
        run_ordered(vec![1, 2], (0..20).collect(), &AtomicBool::new(false), work, take).unwrap();
        assert!(taken.into_iter().eq((0..20).map(|task| task * 2)));
        let begun = begun.into_inner().unwrap();
        let slow = begun.iter().find(|(_, task)| *task == 0).unwrap().0;
        assert_eq!(begun.iter().filter(|(worker, _)| *worker == slow).count(), 1);
    }

    #[test]
    fn a_panic_fails_one_task_alone() {
        let work = |_: &(), task: usize| {
            catch_panic("a.mp4".as_ref(), || {
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
        run_ordered(vec![(), ()], (0..6).collect(), &go_on, work, take).unwrap();
        assert_eq!(taken.iter().filter(|result| result.is_ok()).count(), 5);
        let error = taken[3].as_ref().unwrap_err();
        for part in ["a.mp4", "third time unlucky", "report"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_failure_ends_the_run_and_is_returned() {
        let go_on = AtomicBool::new(false);
        let mut taken = 0;
        let take = |_| {
            taken += 1;
            anyhow::ensure!(taken < 4, "the disk is full");
            Ok(())
        };
        let result =
            run_ordered(vec![()], (0..1000).collect(), &go_on, |_, task: usize| task, take);
        assert_eq!(result.unwrap_err().to_string(), "the disk is full");
        assert_eq!(taken, 4);
    }

    #[test]
    fn no_task_starts_after_a_stop() {
        let stop = AtomicBool::new(false);
        let mut taken = 0;
        let work = |_: &(), task: usize| stop.store(task == 4, Ordering::Relaxed);
        let take = |()| {
            taken += 1;
            Ok(())
        };
        run_ordered(vec![()], (0..100).collect(), &stop, work, take).unwrap();
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
    fn all_workers_open_or_the_first_failure_is_returned() {
        let open = |number: usize| {
            anyhow::ensure!(number < 2, "there is no device {number}");
            Ok(number)
        };
        assert_eq!(open_all(vec![0, 1, 0], open).unwrap(), [0, 1, 0]);
        let error = open_all(vec![0, 3, 2], open).unwrap_err();
        assert_eq!(error.to_string(), "there is no device 3");
    }

    #[test]
    fn types_shorter_than_f32_are_refused_where_they_are_slower() {
        assert!(check_precision(Precision::F32, false).is_ok());
        assert!(check_precision(Precision::F16, true).is_ok());
        assert!(check_precision(Precision::Bf16, true).is_ok());
        let error = check_precision(Precision::F16, false).unwrap_err().to_string();
        assert_eq!(error, "--precision f16 needs a GPU: give f32");
        assert_eq!(check_precision(Precision::Bf16, false).is_ok(), has_bf16());
    }
}
