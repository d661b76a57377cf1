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
/// Between the names at the ends of curves.
const NAME_HEIGHT: i32 = 16;
/// Dash and gap of curves that may lie upon each other; no gap is a solid line.
const DASHES: [(i32, i32); 3] = [(1, 0), (14, 6), (3, 6)];
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

fn place(results: &Results, contender: &str) -> usize {
    results.contenders().iter().position(|&name| name == contender).unwrap_or(0)
}

fn colour(results: &Results, contender: &str) -> RGBColor {
    COLOURS[place(results, contender) % COLOURS.len()]
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

/// Memory over sessions that are held. The scale is logarithmic: the most may be a thousand times the least. Curves
/// lie upon each other where two contenders need the same, so their dashes differ and each is named at its end.
fn memory(results: &Results, folder: &Path) -> Result<(), Failure> {
    let curves = results.memory_curves();
    let points = curves.values().flatten();
    let sessions = points.clone().map(|&(sessions, _)| sessions).max().unwrap_or(0);
    if sessions == 0 {
        return Ok(());
    }
    let mib = |kib: f64| (kib / 1024.0).max(1e-3);
    let least = points.clone().map(|&(_, kib)| mib(kib)).fold(f64::MAX, f64::min);
    let most = points.map(|&(_, kib)| mib(kib)).fold(least * 10.0, f64::max);
    let path = folder.join("memory-over-sessions.svg");
    let root = SVGBackend::new(&path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption("memory of both processes over idle sessions", TITLE)
        .margin(12)
        .margin_right(160)
        .x_label_area_size(40)
        .y_label_area_size(64)
        .build_cartesian_2d(0..sessions, (least..most).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("sessions")
        .y_desc("MiB, logarithmic")
        .y_label_formatter(&|&value| short(value))
        .draw()?;
    let mut ends = Vec::new();
    // Solid ones first, so that the gaps of the others show what lies below.
    for (dashes, &(dash, gap)) in DASHES.iter().enumerate() {
        for (contender, curve) in &curves {
            // *direct* comes first and has no curve: the first solid one is skyorg's.
            if (place(results, contender) + DASHES.len() - 1) % DASHES.len() != dashes {
                continue;
            }
            let line = colour(results, contender).stroke_width(2);
            let points: Vec<_> = curve.iter().map(|&(sessions, kib)| (sessions, mib(kib))).collect();
            ends.extend(points.last().map(|end| (chart.backend_coord(end), *contender, line)));
            if gap == 0 {
                chart.draw_series(LineSeries::new(points, line))?;
            } else {
                chart.draw_series(DashedLineSeries::new(points, dash, gap, line))?;
            }
        }
    }
    // From the top downwards, each name at its curve's end or below the name before.
    ends.sort_by_key(|&((_, y), ..)| y);
    let mut free = 0;
    for ((x, y), contender, line) in ends {
        let middle = y.max(free);
        free = middle + NAME_HEIGHT;
        root.draw(&PathElement::new(vec![(x, y), (x + 20, middle)], line))?;
        root.draw(&Text::new(contender, (x + 26, middle - NAME_HEIGHT / 2), LABEL))?;
    }
    root.present()?;
    Ok(())
}
