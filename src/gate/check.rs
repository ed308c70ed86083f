//! The checks that the gate makes itself, beside those of the rules: what was read, and what changed since the baseline.

/// One check of the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GateCheck {
    /// `gate-` and the bad state, in kebab case.
    pub code: &'static str,
    /// One line, lower case.
    pub summary: &'static str,
    /// What to do, and how the policy can change it.
    pub help: &'static str,
}

/// A path that could not be read at all.
pub static UNREADABLE: GateCheck = GateCheck {
    code: "gate-unreadable",
    summary: "a checkpoint cannot be read",
    help: "what was not read was not judged: the gate cannot decide; no policy changes that",
};

/// A baseline that nothing can be held against.
pub static REFUSED_BASELINE: GateCheck = GateCheck {
    code: "gate-refused-baseline",
    summary: "the baseline cannot be used",
    help: "name the measurement file of the accepted checkpoint of this model, or take baseline.file out of the policy; no policy judges without the baseline that it names",
};

/// Something that lies in the checkpoint and was not read, or no elements at all.
pub static NOT_JUDGED: GateCheck = GateCheck {
    code: "gate-not-judged",
    summary: "a part of the checkpoint was not judged",
    help: "cast the tensors to a plain float dtype, or except them by name in [[skip]], with a reason",
};

/// A check that the policy requires and that could not run.
pub static REQUIRED: GateCheck = GateCheck {
    code: "gate-required-check",
    summary: "a check that the policy requires could not run",
    help: "give the check what it needs, or take it out of gate.required",
};

/// A file in a format that the policy does not allow.
pub static FORMAT: GateCheck = GateCheck {
    code: "gate-format",
    summary: "a file has a format that the policy does not allow",
    help: "convert the file to an allowed format, or add its format to gate.formats",
};

/// A quantity beyond a limit of the policy.
pub static LIMIT: GateCheck = GateCheck {
    code: "gate-limit",
    summary: "a quantity is beyond a limit of the policy",
    help: "find out what made it grow; if the growth is meant, accept the checkpoint as the new baseline or change [[limits]]",
};

/// A tensor that the baseline does not have.
pub static NEW: GateCheck = GateCheck {
    code: "gate-new-tensor",
    summary: "the model has a tensor that the baseline does not have",
    help: "if the model was meant to change, measure this checkpoint as the new baseline; baseline.new sets the severity",
};

/// A tensor that only the baseline has.
pub static MISSING: GateCheck = GateCheck {
    code: "gate-missing-tensor",
    summary: "the model lacks a tensor of the baseline",
    help: "if the model was meant to change, measure this checkpoint as the new baseline; baseline.missing sets the severity",
};

/// A tensor of another dtype than in the baseline.
pub static RETYPED: GateCheck = GateCheck {
    code: "gate-retyped-tensor",
    summary: "a tensor has another dtype than in the baseline",
    help: "if the cast is meant, measure this checkpoint as the new baseline; baseline.retyped sets the severity",
};

/// A tensor of another shape than in the baseline.
pub static RESHAPED: GateCheck = GateCheck {
    code: "gate-reshaped-tensor",
    summary: "a tensor has another shape than in the baseline",
    help: "if the change is meant, measure this checkpoint as the new baseline; baseline.reshaped sets the severity",
};

/// An exception whose date has passed.
pub static EXPIRED: GateCheck = GateCheck {
    code: "gate-expired-exception",
    summary: "an exception of the policy has expired and no longer applies",
    help: "mend what it excepted, or give it a later date and a reason that still holds",
};

/// An exception that nothing needed.
pub static UNUSED: GateCheck = GateCheck {
    code: "gate-unused-exception",
    summary: "an exception of the policy names no tensor of the checkpoint",
    help: "take it out of the policy, or mend its pattern",
};

/// Every check of the gate, by code.
pub static CHECKS: &[&GateCheck] = &[
    &EXPIRED,
    &FORMAT,
    &LIMIT,
    &MISSING,
    &NEW,
    &NOT_JUDGED,
    &REFUSED_BASELINE,
    &REQUIRED,
    &RESHAPED,
    &RETYPED,
    &UNREADABLE,
    &UNUSED,
];

/// The check of that code.
pub fn find(code: &str) -> Option<&'static GateCheck> {
    CHECKS.iter().copied().find(|check| check.code == code)
}

/// Code and name of a rule or a check; the code alone where it holds the name.
pub fn title(code: &str, name: &str) -> String {
    if code.ends_with(name) { code.to_owned() } else { format!("{code} {name}") }
}

impl GateCheck {
    /// What `flashpoint explain` says of it.
    pub fn page(&self) -> String {
        let Self { code, summary, help } = self;
        format!(
            "# {code}\n\n{summary}. A check of `flashpoint gate` itself, beside those of the rules.\n\n## What to do\n\n{help}.\n"
        )
    }

    /// The code without `gate-`.
    pub fn name(&self) -> &'static str {
        self.code.strip_prefix("gate-").unwrap_or(self.code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_in_order_and_their_own() {
        assert!(CHECKS.windows(2).all(|pair| pair[0].code < pair[1].code));
        for check in CHECKS {
            assert!(check.code.starts_with("gate-") && find(check.code) == Some(check), "{}", check.code);
        }
    }
}
