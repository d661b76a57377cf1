//! Pictures, as SVG: bars per figure, latency curves, memory over sessions.

use std::error::Error;
use std::fs;
use std::path::Path;

use plotters::prelude::*;

use super::cases::{CASES, Case, Kind};
use super::results::{Results, short};

const SIZE: (u32, u32) = (900, 480);
const BAR_HEIGHT: u32 = 26;
const TITLE: (&str, u32) = ("sans-serif", 20);
const LABEL: (&str, u32) = ("sans-serif", 14);
/// Where the latency curves are sampled.
const PERCENTILES: [f64; 12] = [1.0, 5.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.99];
/// Colours that most people can tell apart on white.
const COLOURS: [RGBColor; 11] = [
    RGBColor(90, 90, 90),
    RGBColor(0, 114, 178),
    RGBColor(86, 180, 233),
    RGBColor(213, 94, 0),
    RGBColor(230, 159, 0),
    RGBColor(160, 60, 20),
    RGBColor(240, 200, 90),
    RGBColor(0, 158, 115),
    RGBColor(120, 200, 160),
    RGBColor(150, 80, 150),
    RGBColor(204, 121, 167),
];

/// A picture that could not be drawn.
type Failure = Box<dyn Error>;

/// Draws everything that the results hold into a folder.
pub fn all(results: &Results, folder: &Path) -> Result<(), Failure> {
    fs::create_dir_all(folder)?;
    // Growth has a figure for each point: too many bars for a picture.
    for case in CASES.iter().filter(|case| !matches!(case.kind, Kind::Growth)) {
        bars(results, case, folder)?;
        latencies(results, case, folder)?;
    }
    memory(results, folder)
}

fn colour(results: &Results, contender: &str) -> RGBColor {
    let place = results.contenders().iter().position(|&name| name == contender).unwrap_or(0);
    COLOURS[place % COLOURS.len()]
}

/// One picture per case: a panel per figure, a bar per contender, a line from the least to the most.
fn bars(results: &Results, case: &Case, folder: &Path) -> Result<(), Failure> {
    let metrics = results.metrics(case.name);
    if metrics.is_empty() {
        return Ok(());
    }
    let contenders = results.contenders();
    let panel = 34 + BAR_HEIGHT * contenders.len() as u32;
    let path = folder.join(format!("{}.svg", case.name));
    let root = SVGBackend::new(&path, (SIZE.0, 40 + panel * metrics.len() as u32)).into_drawing_area();
    root.fill(&WHITE)?;
    let root = root.titled(case.title, TITLE)?;
    for (area, metric) in root.split_evenly((metrics.len(), 1)).iter().zip(metrics) {
        let summaries: Vec<_> = contenders
            .iter()
            .filter_map(|&name| Some((name, results.summary(case.name, metric, name)?)))
            .collect();
        let most = summaries.iter().map(|(_, summary)| summary.max).fold(0.0, f64::max);
        // All figures may be zero.
        let scale = 600.0 / if most > 0.0 { most } else { 1.0 };
        let text = |text: String, x: i32, y: i32| Text::new(text, (x, y), LABEL);
        area.draw(&text(metric.to_owned(), 12, 6))?;
        for (row, (name, summary)) in summaries.into_iter().enumerate() {
            let top = 30 + row as i32 * BAR_HEIGHT as i32;
            let at = |value: f64| 160 + (value * scale) as i32;
            let middle = top + 9;
            area.draw(&text(name.to_owned(), 24, top + 2))?;
            let bar = [(160, top), (at(summary.median).max(161), top + 18)];
            area.draw(&Rectangle::new(bar, colour(results, name).filled()))?;
            area.draw(&PathElement::new(vec![(at(summary.min), middle), (at(summary.max), middle)], BLACK))?;
            area.draw(&text(short(summary.median), at(summary.max) + 8, top + 2))?;
        }
    }
    root.present()?;
    Ok(())
}

/// Latency at each percentile. Both axes are logarithmic, so that rare and slow requests can be seen.
fn latencies(results: &Results, case: &Case, folder: &Path) -> Result<(), Failure> {
    let curves = results.latency_curves(case.name, &PERCENTILES);
    if curves.is_empty() {
        return Ok(());
    }
    // 90 %, 99 % and 99.9 % are equally far from each other.
    let nines = |percent: f64| -(1.0 - percent / 100.0).log10();
    let milliseconds = curves.iter().flat_map(|curve| &curve.1).map(|seconds| seconds * 1e3);
    let least = milliseconds.clone().fold(f64::MAX, f64::min).max(1e-6);
    let most = milliseconds.fold(0.0, f64::max).max(least * 1.1);
    let path = folder.join(format!("{}-latency.svg", case.name));
    let root = SVGBackend::new(&path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(format!("{}: latency", case.title), TITLE)
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..nines(99.99), (least..most).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("percentile")
        .y_desc("ms")
        .x_label_formatter(&|&nines| short_percent(100.0 * (1.0 - 10f64.powf(-nines))))
        .y_label_formatter(&|&value| short(value))
        .draw()?;
    for (contender, curve) in curves {
        let line = colour(results, contender).stroke_width(2);
        let points = PERCENTILES.iter().zip(curve).map(|(&percent, seconds)| (nines(percent), seconds * 1e3));
        chart
            .draw_series(LineSeries::new(points, line))?
            .label(contender)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], line));
    }
    let position = SeriesLabelPosition::UpperLeft;
    chart.configure_series_labels().position(position).background_style(WHITE.mix(0.8)).draw()?;
    root.present()?;
    Ok(())
}

fn short_percent(percent: f64) -> String {
    format!("{percent:.3}").trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Memory over sessions that are held.
fn memory(results: &Results, folder: &Path) -> Result<(), Failure> {
    let curves = results.memory_curves();
    let points = curves.values().flatten();
    let (sessions, kib) =
        points.fold((0, 0.0), |most, &(sessions, kib)| (sessions.max(most.0), kib.max(most.1)));
    if sessions == 0 {
        return Ok(());
    }
    let path = folder.join("memory-over-sessions.svg");
    let root = SVGBackend::new(&path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption("memory of both processes over idle sessions", TITLE)
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(64)
        .build_cartesian_2d(0..sessions, 0.0..kib / 1024.0)?;
    chart.configure_mesh().x_desc("sessions").y_desc("MiB").draw()?;
    for (contender, curve) in curves {
        let line = colour(results, contender).stroke_width(2);
        let points = curve.into_iter().map(|(sessions, kib)| (sessions, kib / 1024.0));
        chart
            .draw_series(LineSeries::new(points, line))?
            .label(contender)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], line));
    }
    let position = SeriesLabelPosition::UpperLeft;
    chart.configure_series_labels().position(position).background_style(WHITE.mix(0.8)).draw()?;
    root.present()?;
    Ok(())
}
