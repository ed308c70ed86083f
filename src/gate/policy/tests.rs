use super::*;

fn parse(text: &str) -> Result<Policy> {
    Policy::parse(text, Path::new("ci/flashpoint.toml"))
}

/// The place and the message of a mistake.
fn mistake(text: &str) -> (At, String) {
    let error = parse(text).unwrap_err();
    let ErrorKind::SideFile { message, .. } = error.kind else { panic!("{error}") };
    (error.at.expect("a mistake has a place"), message)
}

#[test]
fn an_unknown_rule_is_an_error_at_its_line_that_suggests_the_nearest() {
    let (at, message) = mistake("# limits\n[rules.FP999]\nx = 1.0\n");
    assert_eq!(at, At::Line(2, 8));
    assert!(message.starts_with("there is no rule FP999"), "{message}");
    let (_, message) = mistake("[rules.FP1O1]\nseverity = \"note\"\n");
    assert!(message.contains("did you mean FP101?"), "{message}");
    let (_, message) = mistake("[rules.nonfinite]\n");
    assert!(message.contains("did you mean non-finite?"), "{message}");
}

#[test]
fn an_unknown_threshold_is_an_error_that_names_the_known_ones() {
    let (_, message) = mistake("[rules.FP101]\nlimit = 3.0\n");
    assert!(message.contains("FP101 has no threshold limit; it has none"), "{message}");
    let (at, message) = mistake("[rules.FP406]\nratoi = 3.0\n");
    assert_eq!(at, At::Line(2, 1));
    assert!(message.contains("did you mean ratio?"), "{message}");
    let (_, message) = mistake("[rules.FP406]\nseverty = \"note\"\n");
    assert!(message.contains("did you mean severity?"), "{message}");
}

#[test]
fn an_unknown_section_is_an_error() {
    assert_eq!(mistake("[rule.FP101]\n").0, At::Line(1, 2));
}

#[test]
fn an_empty_policy_is_the_built_in_one() {
    let empty = parse("").unwrap();
    let named = Policy { name: Some("flashpoint.toml".to_owned()), ..Policy::default() };
    assert_eq!(format!("{empty:?}"), format!("{named:?}"));
}

#[test]
fn a_threshold_is_a_number_and_also_a_whole_one() {
    let policy = parse("[rules.FP406]\nratio = 20\nsmallest-median = 0.1\n").unwrap();
    let value = |name: &str| policy.thresholds.0[&("FP406".to_owned(), name.to_owned())];
    assert_eq!((value("ratio"), value("smallest-median")), (20.0, 0.1));
    assert_eq!(mistake("[rules.FP406]\nratio = \"20\"\n").1, "ratio must be a number, not string");
}

#[test]
fn a_rule_overrides_its_family_wherever_it_stands() {
    let text = "[rules.FP406]\nseverity = \"off\"\n[rules.fp4xx]\nseverity = \"note\"\n";
    let policy = parse(text).unwrap();
    assert_eq!(policy.severities["FP406"], Level::Off);
    assert_eq!(policy.severities["FP407"], Level::Note);
    assert!(!policy.severities.contains_key("FP101"));
}

#[test]
fn a_family_has_a_severity_only_and_at_least_one_rule() {
    let (at, message) = mistake("[rules.FP4xx]\nratio = 3.0\n");
    assert!(at == At::Line(2, 1) && message.contains("belongs below a rule of it"), "{message}");
    assert!(mistake("[rules.FP0xx]\nseverity = \"note\"\n").1.contains("families are FP1xx"));
}

#[test]
fn one_rule_under_two_names_is_an_error() {
    let text = "[rules.FP101]\nseverity = \"note\"\n[rules.non-finite]\nseverity = \"off\"\n";
    assert!(mistake(text).1.contains("are the same rule"));
}

#[test]
fn a_family_is_required_as_far_as_it_judges_checkpoints_and_a_rule_on_runs_is_refused() {
    let policy = parse("[gate]\nrequired = [\"FP3xx\"]\n").unwrap();
    assert!(policy.required.contains("FP303") && !policy.required.contains("FP301"));
    let error = parse("[gate]\nrequired = [\"FP501\"]\n").unwrap_err().to_string();
    assert!(error.contains("FP501 judges a run"), "{error}");
}

#[test]
fn a_family_without_a_rule_on_checkpoints_is_refused_where_it_stands() {
    let (at, message) = mistake("[gate]\nrequired = [\"FP3xx\", \"FP5xx\"]\n");
    assert_eq!(at, At::Line(2, 22));
    assert!(message.contains("every rule of FP5xx judges a run"), "{message}");
    assert!(message.contains("leave it out, or name one of FP1xx, FP2xx, FP3xx, FP4xx"), "{message}");
    assert!(!message.split("name one of").any(|offered| offered.contains(", FP5xx")), "{message}");
    // Of every family it offers, some rule judges checkpoints.
    for family in ["FP1xx", "FP2xx", "FP3xx", "FP4xx", "FP6xx", "FP7xx", "FP8xx", "FP9xx"] {
        assert!(
            parse(&format!("[gate]\nrequired = [\"{family}\"]\n")).unwrap().required.len() > 1,
            "{family}"
        );
    }
}

#[test]
fn a_limit_on_shrinking_is_a_ratio_from_0_to_1() {
    let policy = parse("[[limits]]\nquantity = \"norm\"\nshrink = 0.5\n").unwrap();
    assert!(policy.limits[0].needs_baseline() && policy.limits[0].shrink == Some(0.5));
    let error = parse("[[limits]]\nquantity = \"norm\"\nshrink = 2.0\n").unwrap_err().to_string();
    assert!(error.contains("a ratio from 0 to 1"), "{error}");
}

#[test]
fn non_finite_is_required_whatever_else_is() {
    let policy = parse("[gate]\nrequired = [\"FP9xx\", \"dead-rows\"]\n").unwrap();
    let required = policy.required.iter().copied().collect::<Vec<_>>();
    assert_eq!(required, ["FP101", "FP408", "FP901", "FP902", "FP903", "FP904"]);
}

#[test]
fn an_exception_needs_a_reason_and_may_have_a_last_day() {
    let text = "[[skip]]\ntensors = \"embed.*\"\nreason = \"old\"\nexpires = 2027-02-28\n";
    let exception = parse(text).unwrap().exceptions.remove(0);
    let day = |month, day| Date { year: 2027, month, day };
    assert!(exception.holds(day(2, 28)) && !exception.holds(day(3, 1)));
    assert!(exception.names(&["embed.weight"]) && !exception.names(&["head.weight"]));
    assert_eq!(exception.said(), "excepted by embed.*: old, until 2027-02-28");
    assert!(mistake("[[skip]]\ntensors = \"a\"\n").1.contains("reason"));
    assert!(mistake("[[skip]]\ntensors = \"a\"\nreason = \" \"\n").1.contains("needs a reason"));
    let quoted = "[[skip]]\ntensors = \"a\"\nreason = \"r\"\nexpires = \"2027-02-28\"\n";
    assert!(!parse(quoted).unwrap().exceptions[0].holds(day(3, 1)));
    for last in ["2027-02-28T10:00:00Z", "\"in June\"", "7", "\"2027-02-30\""] {
        let text = format!("[[skip]]\ntensors = \"a\"\nreason = \"r\"\nexpires = {last}\n");
        assert!(mistake(&text).1.contains("expires on a day"), "{last}");
    }
    assert!(mistake("[[skip]]\ntensors = \"a[\"\nreason = \"r\"\n").0 == At::Line(2, 11));
}

#[test]
fn a_limit_says_what_and_how_much() {
    let limit = |rest: &str| format!("[[limits]]\nquantity = \"norm\"\n{rest}\n");
    let policy = parse(&limit("growth = 1.5\ntensors = \"head.*\"")).unwrap();
    assert!(policy.needs_baseline() && policy.limits[0].severity == Severity::Critical);
    assert!(!parse(&limit("largest = 3.0")).unwrap().needs_baseline());
    assert!(mistake(&limit("")).1.contains("limits nothing"));
    assert!(mistake(&limit("growth = 0.5")).1.contains("from 1 up"));
    let (at, message) = mistake("[[limits]]\nquantity = \"nrom\"\nlargest = 1.0\n");
    assert!(at == At::Line(2, 12) && message.contains("did you mean norm?"), "{message}");
    let whole = "[[limits]]\nquantity = \"parameter-norm\"\ntensors = \"a\"\nlargest = 1.0\n";
    assert!(mistake(whole).1.contains("of the whole model"));
}

#[test]
fn the_baseline_lies_beside_the_policy() {
    let policy = parse("[baseline]\nfile = \"accepted.measured.json\"\nnew = \"off\"\n").unwrap();
    assert_eq!(policy.baseline.file.as_deref(), Some(Path::new("ci/accepted.measured.json")));
    assert_eq!((policy.baseline.new, policy.baseline.missing), (Level::Off, Level::Critical));
}

#[test]
fn no_threshold_is_called_as_the_severity() {
    assert!(RULES.iter().flat_map(|rule| rule.thresholds).all(|threshold| threshold.name != SEVERITY));
}
