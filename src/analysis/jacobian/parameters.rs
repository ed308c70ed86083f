//! Where the parameters of a segment come from: all in memory where they fit, otherwise read anew each time.

use crate::compute::{Backend, Real};
use crate::error::Result;
use crate::network::{Network, Segment, ValueId, Weights};
use crate::tensor::Tensor;

/// Parameters that are kept in memory together; those of larger networks come and go with their blocks.
pub const RESIDENT_BYTES: u64 = 4 << 30;

/// The parameters of a network.
pub enum Parameters<'a, B: Backend, T: Real> {
    /// All of them.
    Resident(Weights<B, T>),
    /// Read from their tensors whenever a segment needs them.
    Stored {
        /// The network.
        network: &'a Network,
        /// One for each of its parameters.
        tensors: &'a [&'a Tensor],
    },
}

impl<'a, B: Backend, T: Real> Parameters<'a, B, T> {
    /// Those that lie in `tensors`.
    pub fn read(backend: &B, network: &'a Network, tensors: &'a [&'a Tensor]) -> Result<Self> {
        if bytes::<T>(network) > RESIDENT_BYTES {
            return Ok(Self::Stored { network, tensors });
        }
        let mut weights = Weights::none(network);
        let last = ValueId(network.nodes.len().saturating_sub(1));
        weights.load(backend, network, tensors, &network.parameters_between(None, last))?;
        Ok(Self::Resident(weights))
    }

    /// Whether all of them are in memory.
    pub fn is_resident(&self) -> bool {
        matches!(self, Self::Resident(_))
    }

    /// Calls `use_them` with the parameters of the nodes of a segment.
    pub fn with<R>(
        &self,
        backend: &B,
        segment: &Segment,
        use_them: impl FnOnce(&Weights<B, T>) -> Result<R>,
    ) -> Result<R> {
        self.with_nodes(backend, Some(segment.from), segment.to, use_them)
    }

    /// Calls `use_them` with the parameters of the nodes behind `from`, or of all from the first, up to `to`.
    pub fn with_nodes<R>(
        &self,
        backend: &B,
        from: Option<ValueId>,
        to: ValueId,
        use_them: impl FnOnce(&Weights<B, T>) -> Result<R>,
    ) -> Result<R> {
        match self {
            Self::Resident(weights) => use_them(weights),
            Self::Stored { network, tensors } => {
                let mut weights = Weights::none(network);
                weights.load(backend, network, tensors, &network.parameters_between(from, to))?;
                use_them(&weights)
            }
        }
    }
}

/// Bytes of all parameters of a network in precision T.
pub fn bytes<T: Real>(network: &Network) -> u64 {
    let count =
        |shape: &[usize]| shape.iter().fold(1u64, |product, &size| product.saturating_mul(size as u64));
    let elements = network.parameters.iter().map(|parameter| count(&parameter.shape));
    elements.fold(0u64, u64::saturating_add).saturating_mul(size_of::<T>() as u64)
}
