//! Counters of routers: read from their text, and what was added since a moment. Pure.

use std::collections::HashMap;

use k8s_openapi::jiff::Timestamp;

const CALLS: &str = "fission_function_calls_total";
const ERRORS: &str = "fission_function_errors_total";

/// Which calls are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Which {
    pub namespace: String,
    pub function: String,
    /// Only of this version; of all when none.
    pub version: Option<String>,
}

/// Calls and those of them that failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Window {
    pub calls: u64,
    pub errors: u64,
}

/// One counter of a router.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Counter {
    is_error: bool,
    labels: HashMap<String, String>,
    value: f64,
}

/// What one router says.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// Which router: another one after a restart.
    pub router: String,
    pub started: Option<Timestamp>,
    pub counters: Vec<Counter>,
}

/// Totals of each router at a moment.
#[derive(Clone, Debug)]
pub(crate) struct Baseline {
    at: Timestamp,
    totals: HashMap<String, Window>,
}

/// Reads the counters from the text of a router's metrics.
pub(crate) fn parse(text: &str) -> Vec<Counter> {
    text.lines().filter_map(counter).collect()
}

fn counter(line: &str) -> Option<Counter> {
    let (name, rest) = line.split_once('{')?;
    let is_error = match name.trim() {
        CALLS => false,
        ERRORS => true,
        _ => return None,
    };
    let (labels, rest) = labels(rest)?;
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Counter {
        is_error,
        labels,
        value,
    })
}

/// Labels up to the brace, and what follows it.
fn labels(mut rest: &str) -> Option<(HashMap<String, String>, &str)> {
    let mut labels = HashMap::new();
    loop {
        rest = rest.trim_start_matches([' ', ',']);
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, after) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut characters = after.char_indices();
        let end = loop {
            match characters.next()? {
                (index, '"') => break index + 1,
                (_, '\\') => match characters.next()?.1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                (_, character) => value.push(character),
            }
        };
        labels.insert(name.trim().to_owned(), value);
        rest = &after[end..];
    }
}

/// Totals of one router.
fn total(sample: &Sample, which: &Which) -> Window {
    let mut total = Window::default();
    for counter in &sample.counters {
        let label = |name: &str| counter.labels.get(name).map(String::as_str);
        let counts = label("function_namespace") == Some(which.namespace.as_str())
            && label("function_name") == Some(which.function.as_str())
            && which
                .version
                .as_deref()
                .is_none_or(|version| label("function_version") == Some(version));
        if !counts || !counter.value.is_finite() || counter.value < 0.0 {
            continue;
        }
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "counters are whole and not negative"
        )]
        let value = counter.value as u64;
        let sum = if counter.is_error {
            &mut total.errors
        } else {
            &mut total.calls
        };
        *sum = sum.saturating_add(value);
    }
    total
}

/// Where a window begins.
pub(crate) fn baseline(samples: &[Sample], which: &Which, now: Timestamp) -> Baseline {
    let totals = samples
        .iter()
        .map(|sample| (sample.router.clone(), total(sample, which)));
    Baseline {
        at: now,
        totals: totals.collect(),
    }
}

/// What was added since. A counter that is lower than before began anew; a router that was
/// not there counts from its start, or not at all when it is older than the window.
pub(crate) fn window(baseline: &Baseline, samples: &[Sample], which: &Which) -> Window {
    let mut window = Window::default();
    for sample in samples {
        let now = total(sample, which);
        let before = match baseline.totals.get(&sample.router) {
            Some(before) if before.calls <= now.calls && before.errors <= now.errors => *before,
            Some(_) => Window::default(),
            None if sample.started.is_some_and(|time| time >= baseline.at) => Window::default(),
            None => continue,
        };
        window.calls = window.calls.saturating_add(now.calls - before.calls);
        window.errors = window.errors.saturating_add(now.errors - before.errors);
    }
    window
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn which(version: Option<&str>) -> Which {
        Which {
            namespace: "ns".into(),
            function: "f".into(),
            version: version.map(str::to_owned),
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn sample(router: &str, started: i64, calls: u64, errors: u64) -> Sample {
        let labels = r#"function_name="f",function_namespace="ns",path="/x""#;
        let text = format!("{CALLS}{{{labels}}} {calls}\n{ERRORS}{{{labels}}} {errors}\n");
        Sample {
            router: router.into(),
            started: Some(at(started)),
            counters: parse(&text),
        }
    }

    #[test]
    fn counters_of_the_function_are_summed_over_their_other_labels() {
        let text = r#"# HELP fission_function_calls_total Calls.
# TYPE fission_function_calls counter
fission_function_calls_total{function_name="f",function_namespace="ns",path="/a",method="GET",code="200"} 5
fission_function_calls_total{function_name="f",function_namespace="ns",path="/\"{},\\b",method="GET",function_version="f-v2"} 3e2 1700000000
fission_function_calls_total{function_name="f",function_namespace="other"} 1000
fission_function_calls_total{function_name="g",function_namespace="ns"} 1000
fission_function_errors_total{function_namespace="ns", function_name="f", } 2
fission_function_errors_total{function_namespace="ns",function_name="f"
fission_function_errors_total{function_namespace="ns",function_name="f"} NaN
fission_router_routes 9
"#;
        let sample = Sample {
            router: "r".into(),
            started: None,
            counters: parse(text),
        };
        let all = total(&sample, &which(None));
        assert_eq!((all.calls, all.errors), (305, 2));
        let version = total(&sample, &which(Some("f-v2")));
        assert_eq!((version.calls, version.errors), (300, 0));
    }

    #[test]
    fn only_what_was_added_in_the_window_counts() {
        let which = which(None);
        let before = [sample("a", 0, 100, 10), sample("b", 0, 50, 50)];
        let baseline = baseline(&before, &which, at(100));
        let added = |samples: &[Sample]| {
            let window = window(&baseline, samples, &which);
            (window.calls, window.errors)
        };
        assert_eq!(added(&before), (0, 0));
        assert_eq!(
            added(&[sample("a", 0, 130, 11), sample("b", 0, 50, 50)]),
            (30, 1)
        );
        // Began anew without a new name.
        assert_eq!(added(&[sample("a", 0, 7, 1)]), (7, 1));
        // A router that was started meanwhile, and one that could not be asked before.
        assert_eq!(added(&[sample("c", 150, 20, 2)]), (20, 2));
        assert_eq!(added(&[sample("d", 50, 9000, 9000)]), (0, 0));
        // One that is gone takes nothing back.
        assert_eq!(added(&[]), (0, 0));
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(text in "[a-z_{}=\"\\\\, \n0-9.eN+-]{0,200}") {
            _ = parse(&text);
            _ = parse(&format!("{CALLS}{{{text}"));
        }
    }
}
