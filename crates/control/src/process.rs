//! What a process says of itself among its metrics, under the names that Prometheus' own client
//! libraries use. Where the kernel does not say, a line is left out.

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

/// Adds the process to a registry.
pub fn register(registry: &mut Registry) {
    registry.register_collector(Box::new(Process));
}

#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut gauge = |name: &str, help: &str, value: Option<f64>| match value {
            None => Ok(()),
            Some(value) => {
                let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
                ConstGauge::new(value).encode(metric)
            }
        };
        let read = |path: &str| fs::read_to_string(path).ok();
        let stat = read("/proc/self/stat").and_then(|text| Stat::parse(&text));
        let resident = read("/proc/self/status").and_then(|text| resident(&text));
        let booted = read("/proc/stat").and_then(|text| booted(&text));
        let started = stat.as_ref().zip(booted);
        gauge(
            "process_resident_memory_bytes",
            "Memory of this process that is in RAM",
            resident,
        )?;
        gauge(
            "process_start_time_seconds",
            "Start of this process since the Unix epoch",
            started.map(|(stat, booted)| booted + stat.started),
        )?;
        gauge(
            "process_open_fds",
            "Open file descriptors",
            fs::read_dir("/proc/self/fd")
                .ok()
                .and_then(|all| u32::try_from(all.count()).ok())
                .map(f64::from),
        )?;
        if let Some(stat) = stat {
            let (name, help) = ("process_cpu_seconds", "Time on processors, user and system");
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(stat.busy).encode(metric)?;
        }
        Ok(())
    }
}

/// Of `/proc/self/stat` (proc(5)), in seconds.
#[derive(Debug, PartialEq)]
struct Stat {
    busy: f64,
    /// Since the machine was booted.
    started: f64,
}

impl Stat {
    /// Fields 14, 15 and 22; the second is a name in parentheses, which may have any in it.
    fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // Less than 2^52 for the longest life of a machine.
        let seconds = |index: usize| Some(fields.get(index)?.parse::<f64>().ok()? / TICKS);
        Some(Self {
            busy: seconds(11)? + seconds(12)?,
            started: seconds(19)?,
        })
    }
}

/// `USER_HZ`, which Linux has kept at 100 for all programs.
const TICKS: f64 = 100.0;

fn resident(status: &str) -> Option<f64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: f64 = line.split_ascii_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024.0)
}

fn booted(stat: &str) -> Option<f64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn a_name_with_parentheses_does_no_harm() {
        let text = "7 (a ) b) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 9 0 1200 0 0";
        let expected = Stat {
            busy: 3.0,
            started: 12.0,
        };
        assert_eq!(Stat::parse(text), Some(expected));
        assert_eq!(Stat::parse("nonsense"), None);
    }

    #[test]
    fn this_process_is_told() {
        let mut registry = Registry::default();
        register(&mut registry);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for name in [
            "process_resident_memory_bytes",
            "process_start_time_seconds",
            "process_open_fds",
            "process_cpu_seconds_total",
        ] {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let value = line.unwrap_or_else(|| panic!("no {name}: {text}"));
            assert!(value.trim().parse::<f64>().unwrap() >= 0.0, "{text}");
        }
    }
}
