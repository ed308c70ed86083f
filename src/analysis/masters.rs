//! F3: the model's weights against the f32 master weights that they are roundings of.
//!
//! A cast to nearest leaves |w − master| at most half a spacing of the narrower dtype at the master's magnitude; one that
//! truncates, or rounds stochastically, less than a whole one. Counts and extrema only: exact at any number of threads.

use super::model::{DType, MasterAnalysis, MasterRounding, MeasureLevel, Measured};
use super::optimizer::pass_over;
use super::optimizer::place::readable;
use super::statistics::STOPPED;
use crate::checkpoint::{Checkpoint, CheckpointTensor};
use crate::context::Context;
use crate::parallel;
use crate::tensor::Tensor;

/// Compares every weight that has a master with it.
pub(super) fn measure(
    checkpoint: &Checkpoint,
    level: MeasureLevel,
    context: &Context,
) -> Vec<MasterAnalysis> {
    let pairs: Vec<(&CheckpointTensor, &CheckpointTensor)> = checkpoint
        .masters
        .iter()
        .map(|(&weight, &master)| (&checkpoint.tensors[weight], &checkpoint.tensors[master]))
        .collect();
    if level > MeasureLevel::List {
        let sides = pairs.iter().flat_map(|(weight, master)| [weight, master]);
        let bytes = sides.filter_map(|tensor| Some(tensor.tensor.as_ref().ok()?.byte_count()));
        context.progress.expect_tensors(pairs.len());
        context.progress.expect(bytes.fold(0, u64::saturating_add));
    }
    parallel::map(&pairs, |(weight, master)| one(weight, master, level, context))
}

fn one(
    weight: &CheckpointTensor,
    master: &CheckpointTensor,
    level: MeasureLevel,
    context: &Context,
) -> MasterAnalysis {
    if level > MeasureLevel::List {
        context.progress.begin(&weight.name);
    }
    let (rounding, dtypes) = match (&weight.tensor, &master.tensor) {
        (Ok(narrow), Ok(wide)) => (compare(narrow, wide, level, context), [narrow.dtype, wide.dtype]),
        _ => (Measured::not("one of both cannot be read"), [DType::F32, DType::F32]),
    };
    MasterAnalysis { tensor: weight.name.clone(), master: master.name.clone(), dtypes, rounding }
}

fn compare(
    narrow: &Tensor,
    wide: &Tensor,
    level: MeasureLevel,
    context: &Context,
) -> Measured<MasterRounding> {
    if level == MeasureLevel::List {
        return Measured::not("needs --measure norms");
    }
    for tensor in [narrow, wide] {
        if let Err(reason) = readable(tensor) {
            return Measured::not(reason.replace("moments", "elements"));
        }
    }
    let Some(grid) = Grid::of(narrow.dtype) else {
        return Measured::not(format!("what rounding to {} leaves is not known", narrow.dtype));
    };
    let mut found = MasterRounding { elements: 0, equal: 0, beyond_half: 0, beyond_one: 0, largest: 0.0 };
    let finished = pass_over([narrow, wide], context, |[weight, master]| {
        found.elements += 1;
        if weight == master || weight.is_nan() && master.is_nan() {
            found.equal += 1;
            return;
        }
        let spacings = grid.spacings(weight, master);
        found.beyond_half += u64::from(spacings > 0.5);
        found.beyond_one += u64::from(spacings > 1.0);
        found.largest = found.largest.max(spacings);
    });
    context.progress.advance(narrow.byte_count().saturating_add(wide.byte_count()));
    match finished {
        Ok(true) => Measured::Value(found),
        Ok(false) => Measured::not(STOPPED),
        Err(error) => Measured::not(error.kind.to_string()),
    }
}

/// The numbers of a narrow dtype.
#[derive(Clone, Copy)]
struct Grid {
    fraction_bits: i32,
    /// Exponent of the smallest normal number.
    lowest: i32,
}

/// Told of a distance that is none: one of both is not finite.
const NO_DISTANCE: f64 = f64::MAX;

impl Grid {
    fn of(dtype: DType) -> Option<Self> {
        match dtype {
            DType::Bf16 => Some(Self { fraction_bits: 7, lowest: -126 }),
            DType::F16 => Some(Self { fraction_bits: 10, lowest: -14 }),
            DType::F32 => Some(Self { fraction_bits: 23, lowest: -126 }),
            _ => None,
        }
    }

    /// |weight − master| in spacings of the grid at the master.
    fn spacings(self, weight: f64, master: f64) -> f64 {
        if !weight.is_finite() || !master.is_finite() {
            return NO_DISTANCE;
        }
        let exponent = if master == 0.0 { self.lowest } else { exponent(master) };
        let spacing = 2f64.powi(exponent.max(self.lowest) - self.fraction_bits);
        (weight - master).abs() / spacing
    }
}

/// ⌊log₂|x|⌋ of a normal number, and less than that of any for a subnormal one.
fn exponent(x: f64) -> i32 {
    i32::try_from((x.to_bits() >> 52) & 0x7ff).expect("11 bits fit") - 1023
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    #[test]
    fn a_cast_to_nearest_is_within_half_a_spacing_and_one_that_truncates_within_one() {
        let (bf16_grid, f16_grid) = (Grid::of(DType::Bf16).unwrap(), Grid::of(DType::F16).unwrap());
        let mut beyond_half = 0;
        for index in 0..20_000i32 {
            // Weyl's sequence, over many binades and both signs. Rounded from f32: `from_f64` of the crate half leaves the lowest
            // 32 bits out, and takes what is just above a tie for one.
            let spread = (f64::from(index) * 0.618_033_988_749_894_9).fract();
            let master = f64::from(((spread - 0.5) * 2f64.powi(index % 20 - 12)) as f32);
            assert!(bf16_grid.spacings(bf16::from_f32(master as f32).to_f64(), master) <= 0.5, "{master}");
            assert!(f16_grid.spacings(f16::from_f32(master as f32).to_f64(), master) <= 0.5, "{master}");
            let truncated = f64::from(f32::from_bits((master as f32).to_bits() & 0xffff_0000));
            let spacings = bf16_grid.spacings(truncated, master);
            assert!(spacings < 1.0, "{master}");
            beyond_half += u32::from(spacings > 0.5);
        }
        assert!((9_000..11_000).contains(&beyond_half), "{beyond_half}");
        assert_eq!(bf16_grid.spacings(1.0 + 2f64.powi(-6), 1.0), 2.0);
        assert_eq!(bf16_grid.spacings(f64::INFINITY, 1.0), NO_DISTANCE);
    }
}
