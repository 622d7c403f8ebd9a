//! The dashboard asks for metrics that exist.

use std::collections::BTreeSet;
use std::path::Path;

/// Names with these beginnings are ours; the endings are added by the text format.
const BEGINNINGS: [&str; 2] = ["fission_", "farplane_"];
const ENDINGS: [&str; 2] = ["_total", "_bucket"];

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_lowercase() && c != '_')
        .filter(|word| {
            BEGINNINGS
                .iter()
                .any(|beginning| word.starts_with(beginning))
        })
        .filter(|word| !BEGINNINGS.contains(word))
}

#[test]
fn every_metric_of_the_dashboard_is_registered() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
    let dashboard = read("charts/functions/dashboards/functions.json");
    let asked: BTreeSet<&str> = words(&dashboard)
        .map(|word| {
            let ended = ENDINGS.iter().find_map(|ending| word.strip_suffix(ending));
            ended.unwrap_or(word)
        })
        .collect();
    let router = read("crates/functions/router/src/metrics.rs");
    let executor = read("crates/functions/executor/src/metrics.rs");
    let known: BTreeSet<&str> = words(&router).chain(words(&executor)).collect();
    assert!(asked.len() >= 8, "{asked:?}");
    let unknown: Vec<_> = asked.difference(&known).collect();
    assert!(unknown.is_empty(), "nobody tells {unknown:?}");
}
