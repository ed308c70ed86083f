//! What a network takes: token ids or features, and what its output is held against.

/// What a network takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InputKind {
    /// Token ids, `[batch, tokens]`.
    Tokens {
        /// Ids lie below it.
        vocabulary: usize,
        /// The most tokens that there are positions for, where positions are learned.
        positions: Option<usize>,
    },
    /// Numbers. The first axis is the batch.
    Features {
        /// Sizes behind the batch; `None` where any will do.
        shape: Vec<Option<usize>>,
    },
}

/// The input of one forward pass.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// Token ids, one sequence after the other.
    Tokens {
        /// Sequences.
        batch: usize,
        /// The ids of all of them.
        ids: Vec<u32>,
    },
    /// Numbers, row-major.
    Features {
        /// Sizes, the batch first.
        shape: Vec<usize>,
        /// As many numbers.
        values: Vec<f64>,
    },
}

/// What the output is held against.
#[derive(Debug, Clone, PartialEq)]
pub enum Targets {
    /// The class of each row of the output.
    Classes(Vec<u32>),
    /// A number for each of the output's.
    Values(Vec<f64>),
}

/// An input, and the targets where the network ends in a loss.
#[derive(Debug, Clone, PartialEq)]
pub struct Feed {
    /// What goes in.
    pub input: Input,
    /// What should come out.
    pub targets: Option<Targets>,
}

impl From<Input> for Feed {
    fn from(input: Input) -> Self {
        Self { input, targets: None }
    }
}

impl Input {
    /// Its shape: `[batch, tokens]`, or that of the features.
    pub fn shape(&self) -> Vec<usize> {
        match self {
            Self::Tokens { batch, ids } => vec![*batch, ids.len() / (*batch).max(1)],
            Self::Features { shape, .. } => shape.clone(),
        }
    }
}

impl InputKind {
    /// The same, with the sizes that it leaves open as samples of this shape have them.
    ///
    /// # Errors
    /// A sentence, when it takes no numbers, or samples have another number of axes.
    pub fn filled(self, sample: &[usize]) -> Result<Self, String> {
        let Self::Features { shape } = self else {
            return Err("the network takes token ids, and examples are numbers".to_owned());
        };
        if shape.contains(&None) && shape.len() != sample.len() {
            return Err(format!("the sizes left open here are not told by samples of shape {sample:?}"));
        }
        let filled = shape.iter().enumerate().map(|(axis, size)| size.or_else(|| sample.get(axis).copied()));
        Ok(Self::Features { shape: filled.collect() })
    }

    /// # Errors
    /// A sentence that says what is wrong with this shape.
    pub fn check(&self, shape: &[usize]) -> Result<(), String> {
        match self {
            Self::Tokens { positions, .. } => match (shape, positions) {
                ([batch, tokens], _) if *batch == 0 || *tokens == 0 => Err("no token is given".to_owned()),
                ([_, tokens], Some(most)) if tokens > most => {
                    Err(format!("{tokens} tokens are given, the network has positions for {most}"))
                }
                ([_, _], _) => Ok(()),
                _ => Err(format!("token ids are of shape batch × tokens, not {shape:?}")),
            },
            Self::Features { shape: wanted } => {
                let fits = shape.len() == wanted.len() + 1
                    && shape.iter().all(|&size| size > 0)
                    && shape[1..]
                        .iter()
                        .zip(wanted)
                        .all(|(size, wanted)| wanted.is_none_or(|wanted| wanted == *size));
                if fits {
                    Ok(())
                } else {
                    Err(format!("an input of shape {} is needed, not {shape:?}", sizes(wanted)))
                }
            }
        }
    }
}

fn sizes(wanted: &[Option<usize>]) -> String {
    let sizes = wanted.iter().map(|size| size.map_or_else(|| "any".to_owned(), |size| size.to_string()));
    std::iter::once("batch".to_owned()).chain(sizes).collect::<Vec<_>>().join(" × ")
}
