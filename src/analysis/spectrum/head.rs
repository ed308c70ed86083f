//! One attention head as the bilinear form it is: `x·M·y/√d` with `M = W_qᵀ·W_k`.
//!
//! The singular values of M are those of a matrix of d rows: with `W_q·W_qᵀ = L·Lᵀ`, M has the singular values that are the roots of the
//! eigenvalues of `Lᵀ·(W_k·W_kᵀ)·L`.

use super::matrix::SEED;
use super::symmetric;
use crate::analysis::model::{HeadAnalysis, Measured};
use crate::compute::{Backend, Gemm};
use crate::error::Result;
use crate::random::Stream;

/// The projections of one head, d×width, with the gains of the norm before it multiplied in.
#[derive(Debug, Clone)]
pub struct Head {
    /// Query projection, row-major.
    pub query: Vec<f64>,
    /// Key projection, row-major.
    pub key: Vec<f64>,
    /// Numbers per head.
    pub width: usize,
    /// What the queries of all inputs have in common, by their own bias and that of the norm before; empty where there is nothing. What keys
    /// have in common adds the same to all logits of a row.
    pub query_bias: Vec<f64>,
    /// How queries and keys are normalised, where they are.
    pub norms: Option<HeadNorms>,
    /// Queries and keys are turned by their positions.
    pub rotates: bool,
}

/// The norms of the queries and keys of one head.
#[derive(Debug, Clone)]
pub struct HeadNorms {
    /// Gains of the queries.
    pub query: Vec<f64>,
    /// Gains of the keys.
    pub key: Vec<f64>,
    /// Bias of the queries; empty where there is none.
    pub query_bias: Vec<f64>,
    /// Numbers that are normalised together: those of a head, or of all heads, whose whole length one head may have.
    pub together: (usize, usize),
}

impl HeadNorms {
    /// Standard deviation of the logits of independent inputs, and what no logit exceeds, for heads of `d` numbers.
    fn logits(&self, d: usize, rotates: bool) -> (f64, f64) {
        let products: Vec<f64> = self.query.iter().zip(&self.key).map(|(query, key)| query * key).collect();
        let largest = |values: &[f64]| values.iter().fold(0.0f64, |most, x| most.max(x.abs()));
        // A rotation brings the largest of the queries before the largest of the keys.
        let most = if rotates { largest(&self.query) * largest(&self.key) } else { largest(&products) };
        let bias = if rotates {
            length(self.query_bias.iter().copied()) * largest(&self.key)
        } else {
            length(self.query_bias.iter().zip(&self.key).map(|(bias, key)| bias * key))
        };
        let (query, key) = ((self.together.0 as f64).sqrt(), (self.together.1 as f64).sqrt());
        let root = (d as f64).sqrt();
        (length(products.into_iter()) / root, (most * query + bias) * key / root)
    }
}

fn length(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|x| x * x).sum::<f64>().sqrt()
}

/// The eigenvalues that decide what a head does, each ascending.
struct Eigenvalues<'a> {
    /// Of `MᵀM`, as far as they are not zero.
    form: &'a [f64],
    /// Of `W_q·W_qᵀ`.
    query: &'a [f64],
    /// Of `W_k·W_kᵀ`.
    key: &'a [f64],
}

/// What the forms of heads of one width and one stream do to inputs of a norm layer, |x|² = the width of the stream; `None` where an
/// iteration did not converge.
pub fn measure<B: Backend>(backend: &B, heads: &[Head]) -> Result<Option<Vec<HeadAnalysis>>> {
    let (d, count) = (heads.first().map_or(0, |head| head.width), heads.len());
    if d == 0 {
        return Ok(Some(Vec::new()));
    }
    let queries = grams(backend, heads, |head| &head.query)?;
    let keys = grams(backend, heads, |head| &head.key)?;
    let query_grams = backend.download(&queries)?;
    let lower: Vec<f64> = query_grams.chunks_exact(d * d).flat_map(|gram| cholesky(gram, d)).collect();
    let lower = backend.upload(&lower)?;
    let half = multiply(backend, &lower, &keys, (d, count), true)?;
    let forms = multiply(backend, &half, &lower, (d, count), false)?;
    let key_grams = backend.download(&keys)?;
    let eigenvalues = |matrices| symmetric::eigenvalues_on(backend, matrices, d, count);
    let (Some(forms), Some(queries), Some(keys)) =
        (eigenvalues(&forms)?, eigenvalues(&queries)?, eigenvalues(&keys)?)
    else {
        return Ok(None);
    };
    let analysis = |(number, head): (usize, &Head)| {
        let own = number * d..(number + 1) * d;
        let values = Eigenvalues { form: &forms[own.clone()], query: &queries[own.clone()], key: &keys[own] };
        analysis(head, &values, &key_grams[number * d * d..][..d * d])
    };
    Ok(Some(heads.iter().enumerate().map(analysis).collect()))
}

fn analysis(head: &Head, values: &Eigenvalues<'_>, key_gram: &[f64]) -> HeadAnalysis {
    let d = head.width;
    let stream = head.query.len() / d;
    let squares: Vec<f64> = values.form.iter().map(|x| x.max(0.0)).collect();
    let largest = |values: &[f64]| values.last().copied().unwrap_or(0.0).max(0.0).sqrt();
    let total: f64 = squares.iter().sum();
    let root = (d as f64).sqrt();
    let (logit_std, logit_bound) = if let Some(norms) = &head.norms {
        norms.logits(d, head.rotates)
    } else {
        let (query, key) = (largest(values.query), largest(values.key));
        // Turned by positions, the form is W_qᵀ·R·W_k: no R makes it larger than the product of the norms.
        let norm = if head.rotates { query * key } else { largest(values.form) };
        let bias = bias_norm(&head.query_bias, key_gram, d, head.rotates.then_some(key));
        let radius = (stream as f64).sqrt();
        (total.sqrt() / root, (norm * radius + bias) * radius / root)
    };
    let shares = squares.iter().map(|x| x / total).filter(|p| *p > 0.0);
    let spectral_entropy = -shares.map(|p| p * p.ln()).sum::<f64>();
    let predicted_entropy = Measured::not("the config does not say how long the context is");
    HeadAnalysis { logit_std, logit_bound, spectral_entropy, predicted_entropy }
}

/// Rows of independent normal logits.
#[derive(Debug, Clone)]
pub struct NormalLogits {
    keys: usize,
    logits: Vec<f64>,
}

impl NormalLogits {
    /// `rows` rows over `keys` keys.
    pub fn new(keys: usize, rows: usize) -> Self {
        Self { keys, logits: Stream::new(SEED, u64::MAX).normals(keys * rows) }
    }

    /// Mean share of ln T that the entropy of a softmax over T such logits has, at this standard deviation: the random energy model
    /// (Derrida 1981), which condenses onto few keys at `std = √(2·ln T)`.
    pub fn entropy_share(&self, std: f64) -> f64 {
        if self.keys < 2 {
            return 0.0;
        }
        let rows = self.logits.chunks_exact(self.keys);
        let count = rows.len() as f64;
        rows.map(|row| entropy(row, std)).sum::<f64>() / (count * (self.keys as f64).ln())
    }
}

/// Entropy of the softmax of `std` times these logits.
fn entropy(logits: &[f64], std: f64) -> f64 {
    let most = logits.iter().fold(f64::NEG_INFINITY, |most, x| most.max(*x));
    let (mut sum, mut weighted) = (0.0, 0.0);
    for logit in logits {
        let energy = std * (logit - most);
        let weight = energy.exp();
        sum += weight;
        weighted += weight * energy;
    }
    sum.ln() - weighted / sum
}

/// No softmax over T keys whose row of logits, mean taken out, has the norm `norm` has less entropy (Zhai et al. 2023, theorem 3.1).
pub fn least_entropy(norm: f64, keys: usize) -> f64 {
    let t = keys as f64;
    let beta = (-norm * (t / (t - 1.0)).sqrt()).exp();
    let rest = 1.0 + (t - 1.0) * beta;
    rest.ln() + norm * (t * (t - 1.0)).sqrt() * beta / rest
}

/// |W_kᵀ·b|, or |b| times the norm of W_k where a rotation stands between.
fn bias_norm(bias: &[f64], key_gram: &[f64], d: usize, key_norm: Option<f64>) -> f64 {
    if bias.is_empty() {
        return 0.0;
    }
    if let Some(norm) = key_norm {
        return norm * length(bias.iter().copied());
    }
    let form: f64 = (0..d)
        .map(|row| bias[row] * (0..d).map(|column| key_gram[row * d + column] * bias[column]).sum::<f64>())
        .sum();
    form.max(0.0).sqrt()
}

/// `W·Wᵀ` of the same projection of each head, one after the other.
fn grams<B: Backend>(
    backend: &B,
    heads: &[Head],
    projection: impl Fn(&Head) -> &Vec<f64>,
) -> Result<B::Buffer<f64>> {
    let (d, batch) = (heads[0].width, heads.len());
    let length = projection(&heads[0]).len();
    let rows = if let [head] = heads {
        backend.upload(projection(head))?
    } else {
        let mut rows = backend.room(batch * length)?;
        for (number, head) in heads.iter().enumerate() {
            assert_eq!(projection(head).len(), length, "heads of one layer");
            backend.place(&backend.upload(projection(head))?, &mut rows, number * length)?;
        }
        rows
    };
    let mut product = backend.zeros::<f64>(batch * d * d)?;
    let k = length / d;
    let gemm = Gemm { batch, m: d, n: d, k, transpose_a: false, transpose_b: true, alpha: 1.0, beta: 0.0 };
    backend.gemm(&gemm, &rows, &rows, &mut product)?;
    Ok(product)
}

/// The products of `batch` pairs of n×n matrices.
pub(super) fn multiply<B: Backend>(
    backend: &B,
    a: &B::Buffer<f64>,
    b: &B::Buffer<f64>,
    (n, batch): (usize, usize),
    transpose_a: bool,
) -> Result<B::Buffer<f64>> {
    let gemm = Gemm { batch, m: n, n, k: n, transpose_a, transpose_b: false, alpha: 1.0, beta: 0.0 };
    let mut product = backend.zeros::<f64>(batch * n * n)?;
    backend.gemm(&gemm, a, b, &mut product)?;
    Ok(product)
}

/// L with L·Lᵀ = A for a positive semidefinite matrix. A pivot that is rounding has no column.
pub(super) fn cholesky(values: &[f64], n: usize) -> Vec<f64> {
    let largest = (0..n).fold(0.0f64, |most, index| most.max(values[index * n + index]));
    let mut lower = vec![0.0; n * n];
    for column in 0..n {
        let row = |row: usize, lower: &[f64]| -> f64 {
            let known: f64 = (0..column).map(|k| lower[row * n + k] * lower[column * n + k]).sum();
            values[row * n + column] - known
        };
        let pivot = row(column, &lower);
        if pivot <= n as f64 * f64::EPSILON * largest {
            continue;
        }
        let root = pivot.sqrt();
        for index in column..n {
            lower[index * n + column] = row(index, &lower) / root;
        }
    }
    lower
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::spectrum::bidiagonal;
    use crate::compute::Cpu;

    fn head(d: usize, stream: usize) -> Head {
        let numbers = |number| Stream::new(6, number).normals(d * stream);
        Head {
            query: numbers(0),
            key: numbers(1),
            width: d,
            query_bias: Vec::new(),
            norms: None,
            rotates: false,
        }
    }

    fn measured(head: &Head) -> HeadAnalysis {
        measure(&Cpu, std::slice::from_ref(head)).unwrap().unwrap().remove(0)
    }

    /// W_qᵀ·W_k, written out.
    fn form(head: &Head) -> Vec<f64> {
        let stream = head.query.len() / head.width;
        let entry = |row: usize, column: usize| {
            (0..head.width).map(|k| head.query[k * stream + row] * head.key[k * stream + column]).sum()
        };
        (0..stream * stream).map(|at| entry(at / stream, at % stream)).collect()
    }

    #[test]
    fn std_bound_and_entropy_are_those_of_the_form_written_out() {
        let head = head(6, 20);
        let values = bidiagonal::singular_values(form(&head), 20, 20).unwrap();
        let squares: f64 = values.iter().map(|x| x * x).sum();
        let found = measured(&head);
        assert!((found.logit_std / (squares.sqrt() / 6f64.sqrt()) - 1.0).abs() < 1e-12);
        assert!((found.logit_bound / (values[0] * 20.0 / 6f64.sqrt()) - 1.0).abs() < 1e-12);
        let shares = values[..6].iter().map(|x| x * x / squares);
        let entropy = -shares.map(|p| p * p.ln()).sum::<f64>();
        assert!((found.spectral_entropy - entropy).abs() < 1e-12);
    }

    #[test]
    fn a_head_among_others_has_the_numbers_that_it_has_alone() {
        let heads: Vec<Head> = (0..3)
            .map(|number| {
                let mut head = head(5, 17);
                head.key = Stream::new(7, number).normals(5 * 17);
                head.query_bias = Stream::new(8, number).normals(5);
                head
            })
            .collect();
        let together = measure(&Cpu, &heads).unwrap().unwrap();
        let bits =
            |head: &HeadAnalysis| [head.logit_std, head.logit_bound, head.spectral_entropy].map(f64::to_bits);
        let alone: Vec<_> = heads.iter().map(|head| bits(&measured(head))).collect();
        assert_eq!(together.iter().map(bits).collect::<Vec<_>>(), alone);
        assert!(alone[0] != alone[1] && alone[1] != alone[2]);
    }

    #[test]
    fn no_logit_of_inputs_of_a_norm_layer_is_above_the_bound() {
        let mut head = head(4, 12);
        head.query_bias = Stream::new(6, 5).normals(4);
        let found = measured(&head);
        let project = |weights: &[f64], x: &[f64]| -> Vec<f64> {
            weights.chunks_exact(12).map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum()).collect()
        };
        for draw in 0..200 {
            let unit = |number| {
                let x = Stream::new(11, number).normals(12);
                let norm = x.iter().map(|x| x * x).sum::<f64>().sqrt();
                x.iter().map(|x| x / norm * 12f64.sqrt()).collect::<Vec<f64>>()
            };
            let query = project(&head.query, &unit(2 * draw));
            let key = project(&head.key, &unit(2 * draw + 1));
            let logit: f64 =
                query.iter().zip(&head.query_bias).zip(&key).map(|((q, b), k)| (q + b) * k).sum();
            assert!(logit.abs() / 2.0 <= found.logit_bound);
        }
        head.rotates = true;
        assert!(measured(&head).logit_bound >= found.logit_bound);
    }

    /// T19 of the acceptance tests.
    #[test]
    fn the_least_entropy_is_that_of_the_published_bound() {
        for (norm, expected) in [(1.0, 6.23638), (5.0, 5.36174), (8.0, 1.32111), (12.0, 0.04026)] {
            assert!((least_entropy(norm, 512) - expected).abs() < 1e-5, "{norm}");
        }
        // The row that the bound is attained at: one key above all others.
        let (keys, norm) = (512usize, 5.0);
        let low = -norm / ((keys * (keys - 1)) as f64).sqrt();
        let mut row = vec![low; keys];
        row[0] = norm * ((keys - 1) as f64 / keys as f64).sqrt();
        assert!((entropy(&row, 1.0) - least_entropy(norm, keys)).abs() < 1e-12);
    }

    /// T20 of the acceptance tests, which has 0.938, 0.755, 0.367, 0.120 from 400 rows; these are means over 20,000 rows, made with numpy,
    /// with standard errors of at most 0.001. The last of the 400 rows was off by three of its own.
    #[test]
    fn the_predicted_entropy_is_that_of_the_random_energy_model() {
        let critical = (2.0 * 2048f64.ln()).sqrt();
        let logits = NormalLogits::new(2048, 400);
        for (share, expected) in [(0.25, 0.9376), (0.5, 0.7561), (1.0, 0.3611), (2.0, 0.1325)] {
            let found = logits.entropy_share(share * critical);
            assert!((found - expected).abs() < 0.01, "{share}: {found}");
        }
    }

    fn norms(query: [f64; 4], key: [f64; 4]) -> HeadNorms {
        HeadNorms { query: query.to_vec(), key: key.to_vec(), query_bias: Vec::new(), together: (4, 4) }
    }

    #[test]
    fn normalised_queries_and_keys_are_bounded_by_their_gains() {
        let mut head = head(4, 12);
        head.norms = Some(norms([1.0, 2.0, 1.0, 1.0], [1.0, 3.0, 1.0, 1.0]));
        let found = measured(&head);
        assert_eq!(found.logit_bound, 12.0);
        assert!((found.logit_std - 39f64.sqrt() / 2.0).abs() < 1e-15);
    }

    /// Turned by a right angle, as a position may, the largest number of a query meets the largest of a key.
    #[test]
    fn a_rotation_brings_the_largest_gains_together() {
        let mut apart = norms([5.0, 0.1, 0.1, 0.1], [0.1, 0.1, 7.0, 0.1]);
        assert!((apart.logits(4, false).1 - 0.7 * 2.0).abs() < 1e-15);
        // All of the length √4 of both in these numbers: 5·√4·7·√4/√4.
        assert!((apart.logits(4, true).1 - 70.0).abs() < 1e-12);
        apart.query_bias = vec![0.0, 3.0, 0.0, 4.0];
        assert!((apart.logits(4, true).1 - (70.0 + 5.0 * 7.0)).abs() < 1e-12);
        assert!((apart.logits(4, false).1 - (0.7 * 2.0 + 0.5)).abs() < 1e-15);
    }

    /// Of eight heads normalised together one may have the whole length √(8·4).
    #[test]
    fn one_head_may_have_the_length_of_all_that_are_normalised_together() {
        let mut all = norms([1.0; 4], [1.0; 4]);
        all.together = (32, 8);
        assert!((all.logits(4, false).1 - (32.0f64 * 8.0).sqrt() / 2.0).abs() < 1e-12);
        assert_eq!(all.logits(4, false).0, 1.0);
    }
}
