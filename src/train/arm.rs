//! One arm: weights, optimizer and clipping method, and what a step does to them.

use std::sync::Arc;

use half::bf16;
use rayon::iter::{IndexedParallelIterator, IntoParallelRefMutIterator, ParallelIterator};

use super::config::{ArmConfig, Precision};
use super::data::Batch;
use super::model::Model;
use super::optimizer::{Optimizer, Slots, Step};
use super::{norm, passes};
use crate::clip::{Clipper, Parameter};
use crate::compute::cuda::Device;
use crate::compute::{Backend, Cpu};
use crate::error::Result;
use crate::network::{Array, Feed, Gradients, Input, ParameterId, Tape, Weights};

/// What training changes.
pub struct Arm {
    config: ArmConfig,
    model: Model,
    rule: Optimizer,
    weights: Weights<Cpu, f32>,
    gradients: Gradients<Cpu, f32>,
    /// In f32, where the weights are roundings of them.
    masters: Option<Vec<Vec<f32>>>,
    slots: Vec<Slots>,
    clipper: Option<Clipper>,
    /// Steps that the optimizer has taken: those that clipping skips are none of them.
    updates: u64,
    /// What passes run on; none: the processor.
    gpu: Option<Arc<Device>>,
}

/// The numbers of an arm between two steps.
#[derive(Debug, Clone, PartialEq)]
pub struct Numbers {
    /// Of each parameter, in the network's order.
    pub weights: Vec<Vec<f32>>,
    /// The same in f32, where the weights are roundings of them.
    pub masters: Option<Vec<Vec<f32>>>,
    /// What the optimizer keeps of each parameter.
    pub slots: Vec<Slots>,
    /// Steps that the optimizer has taken.
    pub updates: u64,
}

/// What one step did.
#[derive(Debug, Clone, PartialEq)]
pub struct Stepped {
    /// Of this step's batch.
    pub loss: f64,
    /// L2 norm over all parameters, before clipping.
    pub grad_norm: f64,
    /// After it; the same where nothing was clipped, 0 where the step was not taken.
    pub clipped_norm: f64,
    /// Norms of layers, in the network's order.
    pub grad_norm_by_layer: Vec<(String, f64)>,
    /// Elements of the gradient that are NaN or infinite.
    pub non_finite: u64,
    /// The learning rate that was applied.
    pub learning_rate: f64,
    /// The step was not taken: clipping says so.
    pub skipped: bool,
}

/// How good the network is on some examples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// Mean loss.
    pub loss: f64,
    /// Share of examples whose largest logit is that of their class.
    pub accuracy: f64,
}

impl Arm {
    /// An arm that begins with these weights.
    pub fn begin(config: &ArmConfig, model: Model, weights: Vec<Vec<f32>>) -> Self {
        let rule = config.rule();
        let slots = weights.iter().map(|weights| rule.fresh(weights.len())).collect();
        let masters = (config.dtype == Precision::Bf16 && config.master).then(|| weights.clone());
        let weights = match config.dtype {
            Precision::F32 => weights,
            Precision::Bf16 => {
                weights.into_iter().map(|values| values.into_iter().map(rounded).collect()).collect()
            }
        };
        Self::resume(config, model, Numbers { weights, masters, slots, updates: 0 }, None)
    }

    /// An arm that goes on from these numbers. Without a clipper the configured method starts anew.
    pub fn resume(config: &ArmConfig, model: Model, numbers: Numbers, clipper: Option<Clipper>) -> Self {
        let mut weights = Weights::none(&model.network);
        for (index, values) in numbers.weights.into_iter().enumerate() {
            let shape = model.network.parameters[index].shape.clone();
            weights.set(ParameterId(index), Array { shape, buffer: values });
        }
        Self {
            rule: config.rule(),
            gradients: Gradients::none(&model.network),
            weights,
            masters: numbers.masters,
            slots: numbers.slots,
            clipper: clipper.or_else(|| config.clip.map(|clip| clip.method().start())),
            updates: numbers.updates,
            config: config.clone(),
            model,
            gpu: None,
        }
    }

    /// The same with its passes on a GPU.
    #[must_use]
    pub fn on(self, gpu: Option<Arc<Device>>) -> Self {
        Self { gpu, ..self }
    }

    /// The GPU that passes run on.
    pub fn gpu(&self) -> Option<&Device> {
        self.gpu.as_deref()
    }

    /// The network, with its loss.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The optimizer.
    pub fn rule(&self) -> &Optimizer {
        &self.rule
    }

    /// The clipping method under way.
    pub fn clipper(&self) -> Option<&Clipper> {
        self.clipper.as_ref()
    }

    /// The weights of a parameter.
    pub fn weights(&self, index: usize) -> &[f32] {
        &self.weights.get(ParameterId(index)).buffer
    }

    /// Those that they are roundings of, where there are such.
    pub fn masters(&self, index: usize) -> Option<&[f32]> {
        self.masters.as_ref().map(|masters| masters[index].as_slice())
    }

    /// What the optimizer keeps of a parameter.
    pub fn slots(&self, index: usize) -> &Slots {
        &self.slots[index]
    }

    /// Steps that the optimizer has taken.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// The gradient of the last batch by each parameter that the loss depends on, before clipping only where nothing clips.
    pub fn gradient(&self, index: usize) -> Option<&[f32]> {
        self.gradients.get(ParameterId(index)).map(|array| array.buffer.as_slice())
    }

    /// Goes forward and back over a batch: the loss, with the gradients in place of those before.
    pub fn differentiate(&mut self, batch: &Batch) -> Result<f64> {
        for (_, gradient) in self.gradients.met_mut() {
            gradient.buffer.fill(0.0);
        }
        let (network, feed) = (&self.model.network, self.feed(batch));
        if let Some(gpu) = &self.gpu {
            return passes::differentiate(&gpu.backend(), network, &feed, &self.weights, &mut self.gradients);
        }
        let mut tape = Tape::new(network, &Cpu, &feed)?;
        tape.advance(&self.weights, network.output)?;
        let loss = f64::from(tape.array(network.output).buffer[0]);
        tape.parameter_gradient(&self.weights, network.output, vec![1.0], &mut self.gradients)?;
        Ok(loss)
    }

    /// Clips the gradients and moves the weights. `loss` is what [`Arm::differentiate`] gave.
    pub fn update(&mut self, loss: f64, learning_rate: f64) -> Stepped {
        let mut stepped = self.norms(loss, learning_rate);
        let mut rates = vec![1.0; self.slots.len()];
        if self.clipper.is_some() {
            let applied = self.clip();
            stepped.skipped = applied.skip;
            stepped.clipped_norm = applied.clipped_norm;
            rates = applied.rates;
            if applied.reset_moments {
                self.slots.iter_mut().flatten().for_each(|slot| slot.fill(0.0));
            }
        }
        if !stepped.skipped {
            self.updates += 1;
            self.take(learning_rate, &rates);
        }
        stepped
    }

    /// Loss and accuracy over examples that are not learned from.
    pub fn measure(&self, batches: impl Iterator<Item = Batch>) -> Result<Measured> {
        let Some(gpu) = &self.gpu else { return self.measure_on(&Cpu, &self.weights, batches) };
        let backend = gpu.backend();
        let weights = passes::uploaded(&backend, &self.model.network, &self.weights)?;
        self.measure_on(&backend, &weights, batches)
    }

    fn measure_on<B: Backend>(
        &self,
        backend: &B,
        weights: &Weights<B, f32>,
        batches: impl Iterator<Item = Batch>,
    ) -> Result<Measured> {
        let network = &self.model.network;
        let (mut loss, mut right, mut count) = (0.0, 0usize, 0usize);
        for batch in batches {
            let mut tape = Tape::new(network, backend, &self.feed(&batch))?;
            tape.advance(weights, network.output)?;
            let examples = batch.labels.len();
            loss += f64::from(tape.download(network.output)?[0]) * examples as f64;
            let logits = tape.download(self.model.logits)?;
            let rows = logits.chunks_exact(self.model.classes).zip(&batch.labels);
            right += rows.filter(|(row, label)| is_largest(row, **label as usize)).count();
            count += examples;
        }
        Ok(Measured { loss: loss / count as f64, accuracy: right as f64 / count as f64 })
    }

    fn feed(&self, batch: &Batch) -> Feed {
        let shape = [&[batch.labels.len()], self.model.sample.as_slice()].concat();
        Feed {
            input: Input::Features { shape, values: batch.features.clone() },
            targets: Some(self.config.loss.targets(&batch.labels, self.model.classes)),
        }
    }

    fn norms(&self, loss: f64, learning_rate: f64) -> Stepped {
        let mut layers: Vec<(String, f64)> = Vec::new();
        let mut non_finite = 0;
        for (index, parameter) in self.model.network.parameters.iter().enumerate() {
            let Some(gradient) = self.gradient(index) else { continue };
            let squares = norm::squares(gradient);
            non_finite += norm::non_finite(gradient, squares);
            let layer = parameter.name.rsplit_once('.').map_or(parameter.name.as_str(), |(layer, _)| layer);
            match layers.iter_mut().find(|(name, _)| name == layer) {
                Some((_, sum)) => *sum += squares,
                None => layers.push((layer.to_owned(), squares)),
            }
        }
        let grad_norm = layers.iter().map(|(_, squares)| squares).sum::<f64>().sqrt();
        for (_, sum) in &mut layers {
            *sum = sum.sqrt();
        }
        Stepped {
            loss,
            grad_norm,
            clipped_norm: grad_norm,
            grad_norm_by_layer: layers,
            non_finite,
            learning_rate,
            skipped: false,
        }
    }

    fn clip(&mut self) -> crate::clip::Applied {
        let second_moment = self.rule.second_moment();
        let clipper = self.clipper.as_mut().expect("asked for where there is one");
        let parameters = &self.model.network.parameters;
        let head = self.model.head();
        let mut ids = Vec::new();
        let mut limited = Vec::new();
        for (id, gradient) in self.gradients.met_mut() {
            ids.push(id.0);
            let shape = &parameters[id.0].shape;
            limited.push(Parameter {
                gradient: &mut gradient.buffer,
                weights: &self.weights.get(id).buffer,
                units: if shape.len() > 1 { shape[0] } else { 1 },
                second_moment: second_moment.map(|leaf| self.slots[id.0][leaf].as_slice()),
                is_head: head.contains(&id),
            });
        }
        let mut applied = clipper.apply(&mut limited);
        let mut rates = vec![1.0; parameters.len()];
        for (id, rate) in ids.into_iter().zip(&applied.rates) {
            rates[id] = *rate;
        }
        applied.rates = rates;
        applied
    }

    fn take(&mut self, learning_rate: f64, rates: &[f64]) {
        for (index, rate) in rates.iter().enumerate() {
            let id = ParameterId(index);
            let Some(gradient) = self.gradients.get(id) else { continue };
            let weights = &mut self.weights.get_mut(id).expect("every parameter is loaded").buffer;
            let master = self.masters.as_mut().map(|masters| &mut masters[index]);
            let (kept, is_master) = match master {
                Some(master) => (master, true),
                None => (&mut *weights, false),
            };
            self.rule.step(Step {
                number: self.updates,
                learning_rate: learning_rate * rate,
                weights: kept,
                gradient: &gradient.buffer,
                slots: &mut self.slots[index],
            });
            if is_master {
                let kept = &self.masters.as_ref().expect("there are masters")[index];
                weights.par_iter_mut().zip(kept).for_each(|(weight, &master)| *weight = rounded(master));
            } else if self.config.dtype == Precision::Bf16 {
                weights.par_iter_mut().for_each(|weight| *weight = rounded(*weight));
            }
        }
    }
}

/// To the nearest bf16, ties to even.
fn rounded(value: f32) -> f32 {
    bf16::from_f32(value).to_f32()
}

/// Whether no logit is larger, and none is NaN.
fn is_largest(row: &[f32], label: usize) -> bool {
    let own = row[label];
    row.iter()
        .enumerate()
        .all(|(index, &value)| value < own || index == label || (value == own && index > label))
}
