//! A run as one HTML file that needs nothing else: plots, figures, and what they were made on.

mod plots;

use std::{collections::BTreeMap, fmt::Write as _};

use self::plots::{Bar, Line, PlotError};
use super::{Document, Figure, figure::Question, modes, table};

/// Colours of modes, in the order of [`modes::names`]; kinds that belong together are alike.
const COLOURS: [(u8, u8, u8); 12] = [
    (120, 120, 120),
    (31, 119, 180),
    (140, 190, 225),
    (230, 140, 30),
    (250, 200, 120),
    (150, 110, 190),
    (180, 180, 120),
    (200, 40, 60),
    (240, 120, 140),
    (120, 20, 90),
    (190, 90, 190),
    (40, 150, 130),
];

const STYLE: &str = "
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.5rem; } h3 { margin: 0 0 .3rem; font-size: 1rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(24rem, 1fr)); gap: 1rem; }
figure { margin: 0; background: #fff; color: #222; border: 1px solid #ccc; border-radius: 6px; padding: .7rem; }
figure svg { width: 100%; height: auto; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .15rem .7rem .15rem 0; border-bottom: 1px solid #8884; vertical-align: top; }
td.n { text-align: right; white-space: nowrap; }
tr.held td:nth-child(4) { color: #178a3d; } tr.missed td:nth-child(4) { color: #d33; font-weight: bold; }
.note { border-left: 4px solid #d80; padding-left: .7rem; }
";

/// The report.
///
/// # Errors
/// If a plot cannot be drawn.
pub fn html(document: &Document) -> Result<String, PlotError> {
    let environment = &document.environment;
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>netpath bench, {began}</title>\
         <style>{STYLE}</style></head><body>\n<h1>netpath bench</h1>\n<p>{began}, netpath {version}, Linux {kernel}, \
         {cpu}, {cores} cores{virtual_machine}</p>\n",
        began = escape(&environment.began),
        version = escape(&environment.netpath),
        kernel = escape(&environment.kernel),
        cpu = escape(&environment.cpu),
        cores = environment.cores,
        virtual_machine = if environment.virtual_machine { " of a virtual machine" } else { "" },
    );
    for note in table::notes(document) {
        let _ = writeln!(page, "<p class=\"note\">{}</p>", escape(&note));
    }
    let _ = writeln!(
        page,
        "<p>{} rounds, interleaved, of {} ms each. Bars are medians over the rounds; their whiskers span the interval that \
         holds the true median with a probability of {:.0} %. Ratios are taken within a round, so that a noisy moment moves \
         both sides of it. Shorter is better for times, longer for rates.</p>",
        environment.rounds,
        environment.slice_ms,
        document.confidence().unwrap_or_default() * 100.0
    );
    page += &budgets_table(document);
    page += &modes_table(document);
    page += &plots(document)?;
    page += &figures_table(&document.results);
    page += &environment_table(document);
    page += "</body></html>\n";
    Ok(page)
}

/// A section of plots for each workload.
fn plots(document: &Document) -> Result<String, PlotError> {
    // Figures that answer the same question stand next to each other.
    let groups: Vec<_> = document.results.chunk_by(|a, b| a.question() == b.question()).collect();
    let workloads = groups.chunk_by(|a, b| a[0].workload == b[0].workload);
    let mut page = String::new();
    for own in workloads {
        let workload = own[0][0].workload.as_str();
        let _ = writeln!(
            page,
            "<h2>{}</h2>\n<p>{}</p>\n<div class=\"plots\">",
            escape(workload),
            escape(table::meaning(workload))
        );
        match workload {
            "scale" => page += &curves(document)?,
            "program" => page += &variants(document, "program", "ns")?,
            "drop" => page += &variants(document, "drop", "packets/s")?,
            _ => {
                for figures in own {
                    let (heading, unit) = (figures[0].question().words(), &figures[0].unit);
                    page += &figure(&heading, &plots::bars(&bars(figures), unit)?);
                }
                for figures in own.iter().filter(|_| workload == "rr") {
                    let lines: Vec<_> = figures.iter().filter_map(distribution).collect();
                    if !lines.is_empty() {
                        let heading = format!("{}, distribution", figures[0].question().words());
                        page += &figure(&heading, &plots::distribution(&lines, &figures[0].unit)?);
                    }
                }
            }
        }
        page += "</div>\n";
    }
    Ok(page)
}

fn bars(figures: &[Figure]) -> Vec<Bar> {
    let bar = |one: &Figure| Bar {
        label: one.mode.clone(),
        value: one.median,
        low: one.ci_low,
        high: one.ci_high,
        colour: colour(&one.mode),
    };
    figures.iter().map(bar).collect()
}

/// The part of samples that is at or below a value.
fn distribution(figure: &Figure) -> Option<Line> {
    let points: Vec<_> = figure.quantiles.iter().map(|(part, value)| (*value, *part)).collect();
    (!points.is_empty()).then(|| Line { label: figure.mode.clone(), points, colour: colour(&figure.mode) })
}

/// What varies within a workload beside each other, a plot for each mode and path.
fn variants(document: &Document, workload: &str, unit: &str) -> Result<String, PlotError> {
    let mut plots: BTreeMap<(&str, &str), Vec<Bar>> = BTreeMap::new();
    for one in document.results.iter().filter(|one| one.workload == workload) {
        let place = (one.mode.as_str(), one.path.as_deref().unwrap_or(""));
        plots.entry(place).or_default().push(Bar {
            label: one.variant.clone().unwrap_or_default(),
            value: one.median,
            low: one.ci_low,
            high: one.ci_high,
            colour: colour(&one.mode),
        });
    }
    let plot = |((mode, path), bars): (_, Vec<Bar>)| {
        Ok(figure(format!("{mode} {path}").trim(), &plots::bars(&bars, unit)?))
    };
    plots.into_iter().map(plot).collect()
}

/// Round trips over the size of the tables, a plot for each path, protocol and what there is much of.
fn curves(document: &Document) -> Result<String, PlotError> {
    let mut plots: BTreeMap<(String, &str), Vec<Line>> = BTreeMap::new();
    let mut unit = "us";
    for one in document.results.iter().filter(|one| one.workload == "scale") {
        unit = &one.unit;
        let question = Question { amount: None, ..one.question() };
        let lines = plots.entry((question.words(), one.variant.as_deref().unwrap_or(""))).or_default();
        let point = (one.amount.unwrap_or(0) as f64, one.median);
        match lines.iter_mut().find(|line| line.label == one.mode) {
            Some(line) => line.points.push(point),
            None => {
                let (label, colour) = (one.mode.clone(), colour(&one.mode));
                lines.push(Line { label, points: vec![point], colour });
            }
        }
    }
    let mut page = String::new();
    for ((heading, variant), lines) in plots {
        page += &figure(&heading, &plots::curves(&lines, variant, unit)?);
    }
    Ok(page)
}

fn colour(mode: &str) -> (u8, u8, u8) {
    let at = modes::names().position(|name| name == mode).unwrap_or(COLOURS.len() - 1);
    COLOURS[at % COLOURS.len()]
}

fn figure(heading: &str, svg: &str) -> String {
    format!("<figure><h3>{}</h3>{svg}</figure>\n", escape(heading))
}

fn modes_table(document: &Document) -> String {
    let order: Vec<_> = modes::names().collect();
    let mut rows: Vec<_> = document.environment.modes.iter().collect();
    rows.sort_by_key(|(name, _)| order.iter().position(|one| one == name));
    let row = |(name, made_of): &(&String, &String)| {
        format!("<tr><th>{}</th><td>{}</td></tr>\n", escape(name), escape(made_of))
    };
    format!("<h2>Modes</h2>\n<table>{}</table>\n", rows.iter().map(row).collect::<String>())
}

fn figures_table(figures: &[Figure]) -> String {
    let mut rows = String::new();
    for one in figures {
        let ratio = |ratio: Option<f64>, low: Option<f64>, high: Option<f64>| match (ratio, low, high) {
            (Some(ratio), Some(low), Some(high)) => format!("{ratio:.3} ({low:.3} to {high:.3})"),
            _ => "-".to_owned(),
        };
        let words = [
            one.workload.clone(),
            one.path.clone().unwrap_or_default(),
            one.protocol.clone().unwrap_or_default(),
            one.question().variation(),
            one.mode.clone(),
        ];
        let numbers = [
            format!("{}{} {}", if one.noisy { "~" } else { "" }, table::number(one.median), one.unit),
            format!(
                "{} to {} ({:.0} %)",
                table::number(one.ci_low),
                table::number(one.ci_high),
                one.confidence * 100.0
            ),
            one.p99.map_or_else(|| "-".into(), table::number),
            ratio(one.ratio_direct, one.ratio_direct_low, one.ratio_direct_high),
            ratio(one.ratio_bridge, one.ratio_bridge_low, one.ratio_bridge_high),
            ratio(one.ratio_peer, one.ratio_peer_low, one.ratio_peer_high),
            ratio(one.ratio_empty, one.ratio_empty_low, one.ratio_empty_high),
            one.samples.to_string(),
        ];
        rows += "<tr>";
        rows += &words.iter().map(|word| format!("<td>{}</td>", escape(word))).collect::<String>();
        rows += &numbers
            .iter()
            .map(|number| format!("<td class=\"n\">{}</td>", escape(number)))
            .collect::<String>();
        rows += "</tr>\n";
    }
    format!(
        "<h2>All figures</h2>\n<div class=\"wide\"><table><tr><th>workload</th><th>path</th><th>protocol</th><th></th>\
         <th>mode</th><th>median</th><th>interval</th><th>p99</th><th>/ direct</th><th>/ bridge</th><th>/ routed, vxlan</th><th>/ 2 endpoints</th><th>samples</th></tr>\n\
         {rows}</table></div>\n"
    )
}

/// What netpath holds itself to, with a colour for each verdict.
fn budgets_table(document: &Document) -> String {
    let row = |one: &super::Judged| {
        let class = one.verdict.replace(' ', "-");
        let cells = [&one.what, &one.budget(), &one.seen(), &one.verdict, &one.why];
        let cells: String = cells.iter().map(|cell| format!("<td>{}</td>", escape(cell))).collect();
        format!("<tr class=\"{}\">{cells}</tr>\n", escape(&class))
    };
    let rows: String = document.budgets.iter().map(row).collect();
    format!(
        "<h2>Budgets</h2>\n<div class=\"wide\"><table><tr><th>what netpath holds itself to</th><th>budget</th>\
         <th>measured, with its interval</th><th>verdict</th><th>why</th></tr>\n{rows}</table></div>\n"
    )
}

/// The environment as it stands in JSON: every name with its value.
fn environment_table(document: &Document) -> String {
    let value = serde_json::to_value(&document.environment).unwrap_or_default();
    let text = |value: &serde_json::Value| match value {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Object(map) => map
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.as_str().unwrap_or("")))
            .collect::<Vec<_>>()
            .join("; "),
        other => other.to_string(),
    };
    let fields = value.as_object().into_iter().flatten().filter(|(name, _)| *name != "modes");
    let rows: String = fields
        .map(|(name, value)| format!("<tr><th>{}</th><td>{}</td></tr>\n", escape(name), escape(&text(value))))
        .collect();
    format!("<h2>Machine and settings</h2>\n<table>{rows}</table>\n")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
