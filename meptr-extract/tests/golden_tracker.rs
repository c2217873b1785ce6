//! The tracker against the traces in `tracker`.

use crate::golden;
use crate::support;

use anyhow::{Context, Result, ensure};
use meptr_extract::detect::tracker::{BotSort, BotSortConfig, Warp};
use meptr_extract::detect::{BoundingBox, Detection};
use serde_json::Value;
use support::{list, number, numbers};

#[test]
fn tracks_equal_the_reference() -> Result<()> {
    let mut compared = 0;
    for path in golden::json_files("tracker")? {
        let case = golden::Case::open(&path)?;
        for trace in list(&case.json["traces"])? {
            let name = format!("{} {}", trace["seed"], trace["gmc_method"]);
            let off = compare(trace).with_context(|| name.clone())?;
            eprintln!("{name}: off by {off:e} pixel");
            compared += 1;
        }
    }
    ensure!(compared > 0, "no trace to compare with");
    Ok(())
}

fn compare(trace: &Value) -> Result<f32> {
    let config = &trace["config"];
    let mut tracker = BotSort::new(BotSortConfig {
        high_score: number(&config["track_high_thresh"])?,
        low_score: number(&config["track_low_thresh"])?,
        new_track_score: number(&config["new_track_thresh"])?,
        buffer_frames: number(&config["track_buffer"])? as usize,
        max_distance: number(&config["match_thresh"])?,
        weigh_by_score: config["fuse_score"] == Value::Bool(true),
        follows_camera: false, // the warps are given
    });
    let high = number(&config["track_high_thresh"])?;
    let warps: Vec<Warp> =
        list(&trace["warp_per_frame"])?.iter().map(warp).collect::<Result<_>>()?;
    let mut off = 0f32;
    for (index, frame) in list(&trace["frames"])?.iter().enumerate() {
        let detections = list(&frame["detections"])?.iter().map(detection);
        let detections: Vec<Detection> = detections.collect::<Result<_>>()?;
        let found = tracker.update(&detections, warps.get(index));
        let expected = list(&frame["tracks"])?;
        ensure!(found.len() == expected.len(), "frame {index}: {} tracks", found.len());
        for (found, expected) in found.iter().zip(expected) {
            let expected = numbers(expected)?;
            let id = [found.id, place(&detections, found.detection, high)].map(|n| n as f32);
            ensure!(id == [expected[4], expected[7]], "frame {index}: {found:?}, not {expected:?}");
            ensure!((found.score - expected[5]).abs() < 1e-6, "frame {index}: {}", found.score);
            let bounds = found.bounds;
            let edges = [bounds.x1, bounds.y1, bounds.x2, bounds.y2];
            for (found, expected) in edges.iter().zip(&expected) {
                off = off.max((found - expected).abs());
            }
        }
        ensure!(off < 1e-3, "frame {index}: off by {off}");
    }
    Ok(off)
}

/// The reference numbers likely and unlikely detections each from 0.
fn place(detections: &[Detection], index: usize, high: f32) -> usize {
    let is_likely = |detection: &Detection| detection.score >= high;
    let group = is_likely(&detections[index]);
    detections[..index].iter().filter(|other| is_likely(other) == group).count()
}

fn detection(values: &Value) -> Result<Detection> {
    let values = numbers(values)?;
    let bounds = BoundingBox::new(values[0], values[1], values[2], values[3]);
    Ok(Detection { bounds, score: values[4], keypoints: Vec::new() })
}

fn warp(rows: &Value) -> Result<Warp> {
    let mut warp = [[0.0; 3]; 2];
    for (row, values) in warp.iter_mut().zip(list(rows)?) {
        for (value, expected) in row.iter_mut().zip(list(values)?) {
            *value = expected.as_f64().with_context(|| format!("{rows} is no warp"))?;
        }
    }
    Ok(Warp(warp))
}
