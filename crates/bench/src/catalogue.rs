//! Every benchmark by name, with the question it answers. `SPEC.md` refers to these names.

/// Where a benchmark runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On an embedded hub of its own.
    Hub,
    /// On the platform for functions, on a cluster of that hub.
    Functions,
    /// On etcd, API server and gateway on loopback.
    Loopback,
    /// In `crates/tunnel/benches`, by this name of a part.
    Tunnel(&'static str),
}

/// One benchmark.
#[derive(Clone, Copy, Debug)]
pub struct Benchmark {
    /// Name for `--only`, `SPEC.md` and the report.
    pub name: &'static str,
    /// The question.
    pub asks: &'static str,
    /// Where it runs.
    pub place: Place,
    /// Left out unless asked for, since it takes half an hour.
    pub on_request: bool,
}

const fn one(name: &'static str, place: Place, asks: &'static str) -> Benchmark {
    Benchmark {
        name,
        asks,
        place,
        on_request: false,
    }
}

/// Names, so that no other file spells them.
pub mod names {
    /// From a fresh clone with empty caches.
    pub const UP_COLD: &str = "up-cold";
    /// From nothing, with images built.
    pub const UP_WARM: &str = "up-warm";
    /// On a hub that runs.
    pub const UP_RUNNING: &str = "up-running";
    /// A control plane.
    pub const CLUSTER_CREATE: &str = "cluster-create";
    /// A node.
    pub const HOST_JOIN: &str = "host-join";
    /// Private memory at rest.
    pub const MEMORY: &str = "memory";
    /// Many agents.
    pub const GATEWAY_1000: &str = "gateway-1000";
    /// The rival.
    pub const KONNECTIVITY: &str = "konnectivity";
    /// Calls of an instance that is there.
    pub const FUNCTIONS_WARM: &str = "functions-warm";
    /// Large bodies.
    pub const FUNCTIONS_ECHO: &str = "functions-echo";
    /// First calls, from the pool.
    pub const FUNCTIONS_COLD: &str = "functions-cold";
    /// Many first calls at once.
    pub const FUNCTIONS_BURST: &str = "functions-burst";
    /// First calls, from a Deployment of none.
    pub const FUNCTIONS_NEWDEPLOY: &str = "functions-newdeploy";
    /// From source to ready.
    pub const FUNCTIONS_BUILD: &str = "functions-build";
    /// More clients than instances.
    pub const FUNCTIONS_LIMIT: &str = "functions-limit";
    /// Many routes.
    pub const FUNCTIONS_ROUTES: &str = "functions-routes";
    /// Private memory at rest.
    pub const FUNCTIONS_MEMORY: &str = "functions-memory";
}

/// All, in the order in which they run.
pub const ALL: &[Benchmark] = &[
    Benchmark {
        on_request: true,
        ..one(
            names::UP_COLD,
            Place::Hub,
            "How long does `make up` take from a fresh clone with every cache empty?",
        )
    },
    one(
        names::UP_WARM,
        Place::Hub,
        "How long does `farplane up --demo` take from nothing to a Ready cluster, with images built?",
    ),
    one(
        names::UP_RUNNING,
        Place::Hub,
        "How long does `farplane up --demo` take on a hub that runs already?",
    ),
    one(
        names::CLUSTER_CREATE,
        Place::Hub,
        "How long from the start of `farplane cluster create` to the first ok of /readyz through the gateway?",
    ),
    one(
        names::HOST_JOIN,
        Place::Hub,
        "How long from adding a connected host to a cluster until its Node is Ready?",
    ),
    one(
        names::MEMORY,
        Place::Hub,
        "How much private memory does each process take when nothing happens?",
    ),
    one(
        "tunnel-memory",
        Place::Tunnel("memory"),
        "What does an idle session of the tunnel library cost?",
    ),
    one(
        "tunnel-throughput",
        Place::Tunnel("throughput"),
        "How much of a raw TLS connection does one stream reach, in the same run?",
    ),
    one(
        "tunnel-open",
        Place::Tunnel("open"),
        "How long from open to the first byte back beside 100 busy streams?",
    ),
    one(
        "tunnel-echo",
        Place::Tunnel("echo"),
        "How much does an echo suffer from two bulk copies and a stalled stream?",
    ),
    one(
        names::GATEWAY_1000,
        Place::Loopback,
        "How long until 1,000 agents are connected and have their plan, and what does each cost the gateway?",
    ),
    one(
        names::KONNECTIVITY,
        Place::Loopback,
        "Is the same work through konnectivity slower in every row?",
    ),
    one(
        names::FUNCTIONS_MEMORY,
        Place::Functions,
        "How much private memory does the idle platform for functions take?",
    ),
    one(
        names::FUNCTIONS_WARM,
        Place::Functions,
        "How much of what an instance does is left behind the router: calls per second, latency?",
    ),
    one(
        names::FUNCTIONS_ECHO,
        Place::Functions,
        "The same with bodies of 1 MiB, there and back?",
    ),
    one(
        names::FUNCTIONS_COLD,
        Place::Functions,
        "How long does the first call of a function take, with a warm pool?",
    ),
    one(
        names::FUNCTIONS_BURST,
        Place::Functions,
        "How long do ten first calls at once take, of one function and of ten?",
    ),
    one(
        names::FUNCTIONS_NEWDEPLOY,
        Place::Functions,
        "How long does the first call of a function with a Deployment of none take?",
    ),
    one(
        names::FUNCTIONS_BUILD,
        Place::Functions,
        "How long from a changed source with a dependency to a function that is ready?",
    ),
    one(
        names::FUNCTIONS_LIMIT,
        Place::Functions,
        "Does a function keep to its number of instances under many more clients, without an error?",
    ),
    one(
        names::FUNCTIONS_ROUTES,
        Place::Functions,
        "How long until the last of a thousand routes answers, and what do they cost the router?",
    ),
];

/// Benchmark of a name.
pub fn find(name: &str) -> Result<Benchmark, String> {
    let found = ALL.iter().find(|one| one.name == name);
    found.copied().ok_or_else(|| {
        let names: Vec<_> = ALL.iter().map(|one| one.name).collect();
        format!("no such benchmark; there are {}", names.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names in the last column of the tables.
    fn named(table: &str) -> Vec<Vec<String>> {
        let rows = table.lines().filter(|line| line.starts_with("| "));
        let last = rows.filter_map(|row| row.trim_end_matches([' ', '|']).rsplit('|').next());
        let last = last.filter(|cell| cell.trim() != "shown by");
        last.map(|cell| {
            cell.split('`')
                .skip(1)
                .step_by(2)
                .map(str::to_owned)
                .collect()
        })
        .collect()
    }

    #[test]
    fn every_row_of_the_specification_names_benchmarks_that_exist_and_none_is_left_out() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../SPEC.md");
        let rows = named(&std::fs::read_to_string(path).unwrap());
        assert!(rows.len() >= 10, "SPEC.md has lost its table: {rows:?}");
        for row in &rows {
            assert!(
                !row.is_empty(),
                "a row of SPEC.md names no benchmark: {rows:?}"
            );
            for name in row {
                assert!(find(name).is_ok(), "SPEC.md names {name}");
            }
        }
        for benchmark in ALL {
            let shown = rows.iter().flatten().any(|name| name == benchmark.name);
            assert!(shown, "SPEC.md does not name {}", benchmark.name);
        }
    }

    #[test]
    fn names_are_unique_and_questions_are_questions() {
        for (at, one) in ALL.iter().enumerate() {
            assert!(one.asks.ends_with('?'), "{}", one.name);
            assert!(ALL[at + 1..].iter().all(|other| other.name != one.name));
        }
    }
}
