//! Random numbers by counter: the n-th number of a stream is a function of seed, stream and n, whatever was drawn before
//! it and on however many threads. Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as
//! 1, 2, 3").

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// The four random words of `counter` under `key`.
pub fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..ROUNDS {
        if round > 0 {
            key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        }
        let product = |index: usize| u64::from(MULTIPLIERS[index]) * u64::from(counter[2 * index]);
        let (first, second) = (product(0), product(1));
        counter = [
            (second >> 32) as u32 ^ counter[1] ^ key[0],
            second as u32,
            (first >> 32) as u32 ^ counter[3] ^ key[1],
            first as u32,
        ];
    }
    counter
}

/// One sequence of random numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream {
    seed: u64,
    stream: u64,
}

impl Stream {
    /// The stream of that number under `seed`. Streams of one seed are independent.
    pub const fn new(seed: u64, stream: u64) -> Self {
        Self { seed, stream }
    }

    /// The first `count` standard normal numbers of the stream, by Box and Muller.
    pub fn normals(self, count: usize) -> Vec<f64> {
        let mut values = Vec::with_capacity(count.next_multiple_of(2));
        let mut block = 0u64;
        while values.len() < count {
            let words = self.block(block);
            let radius = (-2.0 * open_unit(words[0], words[1]).ln()).sqrt();
            let angle = std::f64::consts::TAU * open_unit(words[2], words[3]);
            values.extend([radius * angle.cos(), radius * angle.sin()]);
            block += 1;
        }
        values.truncate(count);
        values
    }

    /// The first `count` numbers of the stream that are uniform between 0 and 1, ends excluded.
    pub fn uniforms(self, count: usize) -> Vec<f64> {
        let mut values = Vec::with_capacity(count.next_multiple_of(2));
        let mut block = 0u64;
        while values.len() < count {
            let words = self.block(block);
            values.extend([open_unit(words[0], words[1]), open_unit(words[2], words[3])]);
            block += 1;
        }
        values.truncate(count);
        values
    }

    fn block(self, block: u64) -> [u32; 4] {
        let [block_low, block_high] = halves(block);
        let [stream_low, stream_high] = halves(self.stream);
        philox([block_low, block_high, stream_low, stream_high], halves(self.seed))
    }
}

fn halves(word: u64) -> [u32; 2] {
    [word as u32, (word >> 32) as u32]
}

/// The middle of one of 2^52 equal parts of the unit interval.
fn open_unit(low: u32, high: u32) -> f64 {
    let bits = (u64::from(high) << 32 | u64::from(low)) >> 12;
    (bits as f64 + 0.5) * 2f64.powi(-52)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers that come with the authors' Random123, `philox 4x32 10`.
    #[test]
    fn the_words_are_those_of_random123() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn normal_numbers_have_the_moments_of_the_normal_distribution() {
        let values = Stream::new(7, 3).normals(200_000);
        let moment = |power: i32| values.iter().map(|x| x.powi(power)).sum::<f64>() / values.len() as f64;
        // Standard errors: 1, √2, √15 and √96 over √200000.
        assert!(moment(1).abs() < 4.0 * 0.002_24);
        assert!((moment(2) - 1.0).abs() < 4.0 * 0.003_16);
        assert!(moment(3).abs() < 4.0 * 0.008_66);
        assert!((moment(4) - 3.0).abs() < 4.0 * 0.0219);
    }

    #[test]
    fn a_longer_stream_begins_with_the_shorter_one_and_other_streams_differ() {
        let long = Stream::new(1, 2).normals(11);
        assert_eq!(Stream::new(1, 2).normals(5), long[..5]);
        assert_ne!(Stream::new(1, 3).normals(5), long[..5]);
        assert_ne!(Stream::new(2, 2).normals(5), long[..5]);
    }
}
