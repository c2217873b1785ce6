//! Curves over the epochs of a training, and confusion counts, as SVG.

use std::error::Error as StdError;

use plotters::coord::Shift;
use plotters::prelude::*;
use serde_json::Value;

use super::scalars::scalars;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn<T> = Result<T, Box<dyn StdError>>;

const WIDTH: u32 = 900;
const CHART_HEIGHT: u32 = 360;

/// Room for the legend, as a share of what the curves have.
const LEGEND_SHARE: f64 = 0.4;

/// A name and its values over the epochs.
type Series = (String, Vec<(f64, f64)>);

/// The training loss above, scores of both splits below.
pub(super) fn curves(lines: &[Value]) -> Drawn<String> {
    let is_score = |name: &str| {
        let last = name.rsplit('/').next().unwrap_or_default();
        let is_summary = matches!(last, "muar" | "mf1" | "macc" | "ccc" | "dev_score");
        is_summary && !name.contains("/reference/") && name.split('/').count() <= 4
    };
    let charts =
        [("loss", series(lines, |name| name == "loss")), ("scores", series(lines, is_score))];
    drawn(&charts)
}

/// Weights of the parts of the objective; none where it has no parts.
pub(super) fn loss_weights(lines: &[Value]) -> Drawn<Option<String>> {
    let weights = series(lines, |name| name.starts_with("grad_norm/"));
    if weights.is_empty() {
        return Ok(None);
    }
    drawn(&[("weights of the parts of the objective", weights)]).map(Some)
}

/// For each emotion, how the dev rows of each corpus fell out; none where there are no emotions.
pub(super) fn confusion(line: &Value) -> Drawn<Option<String>> {
    let no_corpora = Vec::new();
    let corpora = line["dev"]["corpora"].as_array().unwrap_or(&no_corpora);
    let classes_of = |corpus: &Value| corpus[1]["emotion"]["classes"].as_array().cloned();
    let rows: Vec<(String, Vec<Value>)> = corpora
        .iter()
        .filter_map(|corpus| Some((corpus[0].as_str()?.to_owned(), classes_of(corpus)?)))
        .collect();
    if rows.is_empty() {
        return Ok(None);
    }
    const CELL: u32 = 150;
    let mut svg = String::new();
    {
        let size = (CELL * 6, (CELL + 40) * rows.len() as u32);
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&WHITE)?;
        let strips = root.split_evenly((rows.len(), 1));
        for (strip, (corpus, classes)) in strips.iter().zip(&rows) {
            let epoch = &line["epoch"];
            let strip = strip.titled(
                &format!("{corpus}, dev, epoch {epoch}: truth down, prediction across"),
                ("sans-serif", 16),
            )?;
            let columns = classes.len().max(1);
            for (area, class) in strip.split_evenly((1, columns)).iter().zip(classes) {
                counts(area, class)?;
            }
        }
        root.present()?;
    }
    Ok(Some(svg))
}

/// Four counts of one class, darker where there are more.
fn counts(area: &Area<'_>, class: &Value) -> Drawn<()> {
    let name = class["class"].as_str().unwrap_or_default();
    let area = area.margin(4, 4, 4, 4).titled(name, ("sans-serif", 14))?;
    let cells = [
        ("no", "no", "true_negative"),
        ("no", "yes", "false_positive"),
        ("yes", "no", "false_negative"),
        ("yes", "yes", "true_positive"),
    ];
    let count = |key: &str| class["confusion"][key].as_u64().unwrap_or(0);
    let most = cells.iter().map(|(_, _, key)| count(key)).max().unwrap_or(0).max(1);
    for (cell, (truth, said, key)) in area.split_evenly((2, 2)).iter().zip(cells) {
        let share = count(key) as f64 / most as f64;
        let light = |dark: f64| (255.0 - (255.0 - dark) * share) as u8;
        cell.fill(&RGBColor(light(31.0), light(119.0), light(180.0)))?;
        let ink = if share > 0.6 { WHITE } else { BLACK };
        let style = |size: i32| ("sans-serif", size).into_font().color(&ink);
        cell.draw(&Text::new(count(key).to_string(), (8, 8), style(16)))?;
        cell.draw(&Text::new(format!("{truth} / {said}"), (8, 30), style(11)))?;
    }
    Ok(())
}

fn series(lines: &[Value], wanted: impl Fn(&str) -> bool) -> Vec<Series> {
    let mut all: Vec<Series> = Vec::new();
    for line in lines {
        let epoch = line["epoch"].as_f64().unwrap_or(0.0);
        for (name, value) in scalars(line).into_iter().filter(|(name, _)| wanted(name)) {
            match all.iter_mut().find(|(known, _)| *known == name) {
                Some((_, points)) => points.push((epoch, value)),
                None => all.push((name, vec![(epoch, value)])),
            }
        }
    }
    all
}

fn drawn(charts: &[(&str, Vec<Series>)]) -> Drawn<String> {
    let mut svg = String::new();
    {
        let size = (WIDTH, CHART_HEIGHT * charts.len() as u32);
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&WHITE)?;
        for (area, (title, series)) in root.split_evenly((charts.len(), 1)).iter().zip(charts) {
            chart(area, title, series)?;
        }
        root.present()?;
    }
    Ok(svg)
}

fn chart(area: &Area<'_>, title: &str, series: &[Series]) -> Drawn<()> {
    let points = || series.iter().flat_map(|(_, points)| points);
    let range = |of: fn(&(f64, f64)) -> f64| {
        let low = points().map(of).fold(f64::INFINITY, f64::min);
        let high = points().map(of).fold(f64::NEG_INFINITY, f64::max);
        // A flat or empty curve still needs an axis.
        if low.is_finite() && high > low { low..high } else { axis_around(low) }
    };
    let mut epochs = range(|(epoch, _)| *epoch);
    let has_legend = series.len() > 1;
    if has_legend {
        epochs.end += LEGEND_SHARE * (epochs.end - epochs.start);
    }
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18))
        .margin(10)
        .x_label_area_size(32)
        .y_label_area_size(56)
        .build_cartesian_2d(epochs, range(|(_, value)| *value))?;
    let whole = |epoch: &f64| format!("{epoch:.0}");
    let mesh = &mut chart.configure_mesh();
    mesh.x_desc("epoch").x_label_formatter(&whole).light_line_style(WHITE).draw()?;
    for (number, (name, points)) in series.iter().enumerate() {
        let colour = Palette99::pick(number).to_rgba();
        let line = LineSeries::new(points.iter().copied(), colour.stroke_width(2));
        let entry =
            move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], colour.stroke_width(2));
        chart.draw_series(line)?.label(name.as_str()).legend(entry);
    }
    if has_legend {
        let labels = &mut chart.configure_series_labels();
        let labels = labels.position(SeriesLabelPosition::UpperRight);
        labels.background_style(WHITE.mix(0.8)).border_style(BLACK.mix(0.3)).draw()?;
    }
    Ok(())
}

fn axis_around(value: f64) -> std::ops::Range<f64> {
    let middle = if value.is_finite() { value } else { 0.0 };
    middle - 0.5..middle + 0.5
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(epoch: usize, loss: Value) -> Value {
        serde_json::json!({
            "epoch": epoch, "loss": loss, "dev_score": 0.5,
            "dev": {"corpora": [["a<b", {"emotion": {"muar": 0.4, "classes": [
                {"class": "anger", "confusion": {"true_positive": 12, "false_positive": 3,
                    "false_negative": 4, "true_negative": 56}}]}}]]},
            "grad_norm": {"pseudo": {"weights": [0.3, 0.5]}},
        })
    }

    #[test]
    fn curves_have_a_line_for_each_name() {
        let lines = [line(1, 0.9.into()), line(2, 0.5.into()), line(3, Value::Null)];
        let svg = curves(&lines).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        assert!(svg.contains("dev/a&lt;b/emotion/muar") && svg.contains("dev_score"), "{svg}");
        assert!(
            loss_weights(&lines).unwrap().unwrap().contains("grad_norm/pseudo/weights/emotion")
        );
        for few in [&lines[..1], &[]] {
            assert!(curves(few).is_ok());
        }
        assert!(loss_weights(&[]).unwrap().is_none());
    }

    #[test]
    fn confusion_shows_the_counts() {
        let svg = confusion(&line(2, 0.1.into())).unwrap().unwrap();
        for part in ["anger", "\n12\n", "\n56\n", "yes / no", "epoch 2"] {
            assert!(svg.contains(part), "{part} is not in {svg}");
        }
        let none = serde_json::json!({"dev": {"corpora": [["x", {"emotion": null}]]}});
        assert!(confusion(&none).unwrap().is_none());
    }
}
