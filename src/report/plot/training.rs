//! Loss and gradient norm by step, with the onset, the checkpoints, the one to go back to, and the threshold that clips.

use plotters::style::RGBColor;

use super::canvas::{
    Area, Axes, Chart, Draw, Drawn, Entry, Mark, PANEL, horizontal, legend, legend_height, panel, series,
    triangle, vertical,
};
use super::notes::{Named, Notes, counted};
use super::palette::{AXIS, HEALTHY, KINDS, TROUBLE};
use super::scale::Scale;
use crate::analysis::model::{Analysis, LogPoint, Number};
use crate::diagnosis::Diagnosis;
use crate::number::short;

/// Names of the upright axes.
const LOSS: &str = "loss";
const NORM: &str = "gradient norm";

/// A series with the name of its axis and its colour.
type Panel<'a> = (&'static str, &'a [(f64, f64)], RGBColor);

/// What a run did, step by step.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Training {
    /// Loss by step, not finite values too.
    pub loss: Vec<(f64, f64)>,
    /// Gradient norm by step.
    pub norm: Vec<(f64, f64)>,
    /// Where it began to fail.
    pub onset: Option<f64>,
    /// The steps of its checkpoints.
    pub checkpoints: Vec<f64>,
    /// The step of the one to go back to.
    pub healthy: Option<f64>,
    /// The norm that the run clipped to.
    pub threshold: Option<f64>,
}

impl Training {
    /// What the log says, or the gradient dumps where there is none; nothing where neither says anything.
    pub fn of(analysis: &Analysis, diagnosis: &Diagnosis) -> Option<Self> {
        let points = analysis.log.as_ref().map_or(&[][..], |log| &log.points);
        let logged = |pick: fn(&LogPoint) -> Option<Number>| -> Vec<(f64, f64)> {
            points.iter().filter_map(|point| Some((point.step as f64, pick(point)?.0))).collect()
        };
        let mut norm = logged(|point| point.grad_norm);
        if norm.is_empty() {
            let dumped = analysis.dumps.iter();
            norm = dumped.filter_map(|dump| Some((dump.step as f64, *dump.norm.value()?))).collect();
        }
        let saved = analysis.checkpoints.iter().filter_map(|one| one.step.value());
        let training = Self {
            loss: logged(|point| point.loss),
            norm,
            onset: diagnosis.onset_step.map(|step| step as f64),
            checkpoints: saved.map(|step| *step as f64).collect(),
            healthy: diagnosis.last_healthy_step.map(|step| step as f64),
            threshold: analysis.log.as_ref().and_then(|log| log.semantics.clip_threshold),
        };
        (!training.panels().is_empty()).then_some(training)
    }

    /// The series that there are, with the names of their axes.
    fn panels(&self) -> Vec<Panel<'_>> {
        let all = [(LOSS, &self.loss[..], KINDS[0]), (NORM, &self.norm, KINDS[1])];
        all.into_iter().filter(|(_, points, _)| !points.is_empty()).collect()
    }

    fn entries(&self) -> Vec<Entry> {
        let mut entries = Vec::new();
        if self.onset.is_some() {
            entries.push(Entry::new("onset", TROUBLE, Mark::Dashes));
        }
        if !self.checkpoints.is_empty() {
            entries.push(Entry::new("checkpoint", AXIS, Mark::Triangle));
        }
        if self.healthy.is_some() {
            entries.push(Entry::new("go back to", HEALTHY, Mark::Triangle));
        }
        if let Some(threshold) = self.threshold.filter(|_| !self.norm.is_empty()) {
            entries.push(Entry::new(format!("clipped to {}", short(threshold)), KINDS[3], Mark::Dashes));
        }
        let all = self.loss.iter().chain(&self.norm);
        if all.clone().any(|point| !point.1.is_finite()) {
            entries.push(Entry::new("not finite", TROUBLE, Mark::Cross));
        }
        entries
    }

    fn steps(&self) -> Scale {
        let points = self.loss.iter().chain(&self.norm).map(|point| point.0);
        let all = points.chain(self.checkpoints.iter().copied()).chain(self.onset);
        let (low, high) =
            all.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), step| (low.min(step), high.max(step)));
        Scale::whole(low, high)
    }
}

impl Draw for Training {
    fn height(&self) -> u32 {
        legend_height(&self.entries()) + self.panels().len() as u32 * (PANEL - 90) + 90
    }

    fn draw(&self, area: &Area<'_>, notes: &Notes) -> Drawn {
        let mut rest = legend(&self.entries(), area)?;
        let panels = self.panels();
        let steps = self.steps();
        for (index, (name, points, color)) in panels.iter().enumerate() {
            let is_last = index + 1 == panels.len();
            let (this, next) = rest.split_vertically(if is_last { PANEL } else { PANEL - 90 });
            let is_norm = *name == NORM;
            let threshold = self.threshold.filter(|_| is_norm);
            let y = Scale::of(points.iter().map(|point| point.1).chain(threshold));
            let axes =
                Axes { x: &steps, y: &y, x_name: if is_last { "optimizer step" } else { "" }, y_name: name };
            let mut chart = panel(&this, &axes)?;
            if let Some(onset) = self.onset {
                vertical(&mut chart, &axes, onset, TROUBLE)?;
            }
            if let Some(threshold) = threshold {
                horizontal(&mut chart, &axes, threshold, KINDS[3])?;
            }
            series(&this, &mut chart, &axes, points, *color)?;
            self.saved(&this, &chart, &axes)?;
            let place = |first, last| counted("step", first, last);
            notes.columns(&chart, &axes, &[Named { name, values: points }], place);
            rest = next;
        }
        Ok(())
    }
}

impl Training {
    /// The checkpoints, along the bottom of a panel.
    fn saved(&self, area: &Area<'_>, chart: &Chart<'_, '_>, axes: &Axes<'_>) -> Drawn {
        let (left, top) = area.get_base_pixel();
        for step in &self.checkpoints {
            let (x, y) = chart.backend_coord(&(*step, axes.y.low));
            let color = if Some(*step) == self.healthy { HEALTHY } else { AXIS };
            triangle(area, (x - left, y - top - 12), color)?;
        }
        Ok(())
    }
}
