//! Plots as SVG text.

use plotters::{
    coord::ranged1d::{Ranged, ValueFormatter},
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

/// A plot could not be drawn.
#[derive(Debug, thiserror::Error)]
#[error("drawing a plot: {0}")]
pub struct PlotError(String);

/// A bar and the interval of its value.
pub(super) struct Bar {
    pub(super) label: String,
    pub(super) value: f64,
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) colour: (u8, u8, u8),
}

/// Points that belong together.
pub(super) struct Line {
    pub(super) label: String,
    pub(super) points: Vec<(f64, f64)>,
    pub(super) colour: (u8, u8, u8),
}

const SIZE: (u32, u32) = (460, 290);
const FONT: (&str, i32) = ("sans-serif", 13);
type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn rgb((r, g, b): (u8, u8, u8)) -> RGBColor {
    RGBColor(r, g, b)
}

fn failed(error: impl std::fmt::Display) -> PlotError {
    PlotError(error.to_string())
}

/// Draws on a white ground and returns the SVG.
fn draw(paint: impl FnOnce(&Area<'_>) -> Result<(), PlotError>) -> Result<String, PlotError> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        paint(&area)?;
        area.present().map_err(failed)?;
    }
    // With its size as a box, it takes the width that the page gives it.
    let fixed = format!("width=\"{}\" height=\"{}\" ", SIZE.0, SIZE.1);
    Ok(svg.replacen(&fixed, "", 1))
}

/// Bars beside each other from zero, with their intervals.
pub(super) fn bars(bars: &[Bar], unit: &str) -> Result<String, PlotError> {
    let most = bars.iter().map(|bar| bar.high.max(bar.value)).fold(0.0, f64::max).max(f64::MIN_POSITIVE);
    draw(|area| {
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .x_label_area_size(28)
            .y_label_area_size(62)
            .build_cartesian_2d((0..bars.len().saturating_sub(1)).into_segmented(), 0.0..most * 1.12)
            .map_err(failed)?;
        let label = |place: &SegmentValue<usize>| match place {
            SegmentValue::CenterOf(at) => bars.get(*at).map(|bar| bar.label.clone()).unwrap_or_default(),
            _ => String::new(),
        };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .x_labels(bars.len() + 1)
            .x_label_formatter(&label)
            .y_desc(unit)
            .y_label_formatter(&|value| short(*value))
            .label_style(FONT)
            .draw()
            .map_err(failed)?;
        let centred = FONT.into_text_style(area).pos(Pos::new(HPos::Center, VPos::Bottom));
        for (at, bar) in bars.iter().enumerate() {
            let end = if at + 1 == bars.len() { SegmentValue::Last } else { SegmentValue::Exact(at + 1) };
            let corners = [(SegmentValue::Exact(at), 0.0), (end, bar.value)];
            let mut body = Rectangle::new(corners, rgb(bar.colour).filled());
            body.set_margin(0, 0, 7, 7);
            chart.draw_series([body]).map_err(failed)?;
            let whisker = vec![(SegmentValue::CenterOf(at), bar.low), (SegmentValue::CenterOf(at), bar.high)];
            chart.draw_series([PathElement::new(whisker, BLACK.stroke_width(2))]).map_err(failed)?;
            let above = (SegmentValue::CenterOf(at), bar.high.max(bar.value));
            let value = EmptyElement::at(above) + Text::new(short(bar.value), (0, -3), centred.clone());
            chart.draw_series([value]).map_err(failed)?;
        }
        Ok(())
    })
}

/// Parts of samples at or below a value, up to what 95 of 100 of the slowest are below: the rest is the machine.
pub(super) fn distribution(lines: &[Line], unit: &str) -> Result<String, PlotError> {
    let xs = || lines.iter().flat_map(|line| &line.points).filter(|(_, part)| *part <= 0.95).map(|(x, _)| *x);
    let (least, most) = (xs().fold(f64::INFINITY, f64::min), xs().fold(0.0, f64::max));
    draw(|area| {
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .x_label_area_size(38)
            .y_label_area_size(48)
            .build_cartesian_2d(least * 0.95..most * 1.02, 0.0..1.0)
            .map_err(failed)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_desc(unit)
            .x_label_formatter(&|value| short(*value))
            .label_style(FONT)
            .draw()
            .map_err(failed)?;
        legend(&mut chart, lines)
    })
}

/// Values over amounts that grow by factors.
pub(super) fn curves(lines: &[Line], what: &str, unit: &str) -> Result<String, PlotError> {
    let xs = || lines.iter().flat_map(|line| &line.points).map(|(x, _)| x.max(1.0));
    let (least, largest) = (xs().fold(f64::INFINITY, f64::min), xs().fold(1.0, f64::max));
    let most = lines.iter().flat_map(|line| &line.points).map(|(_, y)| *y).fold(f64::MIN_POSITIVE, f64::max);
    draw(|area| {
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .x_label_area_size(38)
            .y_label_area_size(62)
            .build_cartesian_2d((least * 0.8..largest * 1.25).log_scale(), 0.0..most * 1.3)
            .map_err(failed)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_desc(what)
            .y_desc(unit)
            .x_label_formatter(&|value| short(*value))
            .y_label_formatter(&|value| short(*value))
            .label_style(FONT)
            .draw()
            .map_err(failed)?;
        for line in lines {
            let dots = line.points.iter().map(|point| Circle::new(*point, 3, rgb(line.colour).filled()));
            chart.draw_series(dots).map_err(failed)?;
        }
        legend(&mut chart, lines)
    })
}

/// Draws the lines, and who is who.
fn legend<
    'a,
    'b: 'a,
    X: Ranged<ValueType = f64> + ValueFormatter<f64>,
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
>(
    chart: &mut ChartContext<'a, SVGBackend<'b>, Cartesian2d<X, Y>>,
    lines: &[Line],
) -> Result<(), PlotError> {
    for line in lines {
        let style = rgb(line.colour).stroke_width(2);
        chart
            .draw_series(LineSeries::new(line.points.iter().copied(), style))
            .map_err(failed)?
            .label(line.label.as_str())
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.2))
        .label_font(FONT)
        .draw()
        .map_err(failed)
}

/// A number for an axis.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 1e6 => format!("{}M", trimmed(value / 1e6)),
        size if size >= 1e3 => format!("{}k", trimmed(value / 1e3)),
        _ => trimmed(value),
    }
}

fn trimmed(value: f64) -> String {
    let text = if value.abs() >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") };
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}
