//! Where the numbers stand that an optimizer and its scheduler read back, so that they can be written anew.

use crate::format::{Node, NodeId, Objects, Span};

/// Where a number is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// The one element of a tensor, by its index among the checkpoint's.
    Tensor(usize),
    /// An opcode of the pickle and its argument.
    Pickled {
        /// First byte, from the start of the pickle.
        start: u32,
        /// One past the last.
        end: u32,
    },
}

/// What a number sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Quantity {
    /// The learning rate of the next step.
    LearningRate,
    /// The rate that a schedule multiplies.
    BaseRate,
    /// The rate that a schedule set last.
    ScheduledRate,
    /// `betas[1]`.
    Beta2,
    /// ε in the denominator.
    Epsilon,
    /// A step counter that a whole group shares.
    Step,
}

/// A number of a group or of a schedule.
#[derive(Debug, Clone, PartialEq)]
pub struct Hyperparameter {
    /// What it sets.
    pub quantity: Quantity,
    /// Where it stands in the object, for people: `param_groups[0].lr`.
    pub name: String,
    /// Index of its group.
    pub group: usize,
    /// Its value.
    pub value: f64,
    /// Where it is written; `None` where no single place holds it.
    pub place: Option<Place>,
}

/// The numbers of a schedule that was saved: the rate of each group.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// Index of the file that holds it.
    pub file: usize,
    /// Rates it set last, and rates it multiplies, group by group.
    pub rates: Vec<Hyperparameter>,
}

/// Where the opcode stands that wrote `id`; `None` for what several opcodes wrote.
pub(super) fn pickled(objects: &Objects, id: NodeId) -> Option<Place> {
    let Span { start, end } = *objects.spans.get(id)?;
    let is_number = matches!(objects.node(id), Node::Int(_) | Node::Float(_));
    (is_number && end > start).then_some(Place::Pickled { start, end })
}
