//! Which function a trigger calls, and under which path of the router.

use std::time::Duration;

use farplane_functions_types::{Function, FunctionReference};

/// What a call may take beside the function's own time: a cold start, queues, the way.
const SLACK: Duration = Duration::from_secs(30);
/// When the function is not known (yet).
const UNKNOWN: Duration = Duration::from_secs(300);

/// A function, or an alias or version of it, that can be called.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Target {
    pub namespace: String,
    pub name: String,
    /// Alias or version; the live function when empty.
    pub tag: String,
}

/// Why a reference names nothing that can be called.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TargetError {
    #[error("functionref of type {0:?} is for HTTP triggers; write type: name")]
    Kind(String),
    #[error("functionref names no function; write its name")]
    NoName,
    #[error("{0:?} cannot be the name of a function, alias or version")]
    BadName(String),
    #[error("functionref names an alias and a version; write one of them")]
    Both,
    #[error("subpath {0:?} is not a path; write one that begins with /")]
    Subpath(String),
}

impl Target {
    /// What a reference of a trigger in `namespace` names.
    pub fn of(namespace: &str, reference: &FunctionReference) -> Result<Self, TargetError> {
        if !matches!(reference.kind.as_str(), "name" | "") {
            return Err(TargetError::Kind(reference.kind.clone()));
        }
        if reference.name.is_empty() {
            return Err(TargetError::NoName);
        }
        let tag = match (reference.alias.as_str(), reference.version.as_str()) {
            ("", tag) | (tag, "") => tag,
            _ => return Err(TargetError::Both),
        };
        for name in [reference.name.as_str(), tag] {
            if !name.bytes().all(is_name) {
                return Err(TargetError::BadName(name.to_owned()));
            }
        }
        Ok(Self {
            namespace: namespace.to_owned(),
            name: reference.name.clone(),
            tag: tag.to_owned(),
        })
    }

    /// The path at the router's internal listener.
    pub fn path(&self, subpath: &str) -> String {
        let Self {
            namespace,
            name,
            tag,
        } = self;
        let colon = if tag.is_empty() { "" } else { ":" };
        // The function sees `/` for `/fission-function/...` alone.
        let subpath = if subpath == "/" { "" } else { subpath };
        format!("/fission-function/{namespace}/{name}{colon}{tag}{subpath}")
    }
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.')
}

/// The path that a function sees, with a query where there is one.
pub(crate) fn subpath(text: &str) -> Result<String, TargetError> {
    let refused = || TargetError::Subpath(text.to_owned());
    let path = match text {
        "" => return Ok("/".to_owned()),
        text if text.starts_with('/') => text.to_owned(),
        text => format!("/{text}"),
    };
    // Only an absolute path, exactly as it stands: nothing after `#`, no `..` that an
    // HTTP library would resolve to another function.
    let parsed: http::uri::PathAndQuery = path.parse().map_err(|_| refused())?;
    let climbs = parsed
        .path()
        .split('/')
        .any(|part| matches!(part, "." | ".."));
    if parsed.as_str() != path || climbs {
        return Err(refused());
    }
    Ok(path)
}

/// How long a call of this function may take in all.
pub(crate) fn deadline(function: Option<&Function>) -> Duration {
    function.map_or(UNKNOWN, |function| {
        let seconds = function.spec.timeout_seconds() + function.spec.specialization_seconds();
        Duration::from_secs(seconds) + SLACK
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(name: &str, alias: &str, version: &str) -> FunctionReference {
        FunctionReference {
            kind: "name".into(),
            name: name.into(),
            alias: alias.into(),
            version: version.into(),
            ..FunctionReference::default()
        }
    }

    #[test]
    fn paths_name_the_function_and_its_tag() {
        let path = |alias, version, subpath| {
            Target::of("ns", &reference("f", alias, version))
                .unwrap()
                .path(subpath)
        };
        assert_eq!(path("", "", "/"), "/fission-function/ns/f");
        assert_eq!(
            path("prod", "", "/x?y=z"),
            "/fission-function/ns/f:prod/x?y=z"
        );
        assert_eq!(path("", "f-v3", "/x"), "/fission-function/ns/f:f-v3/x");
    }

    #[test]
    fn references_that_name_nothing_callable_are_refused() {
        let of = |reference: &FunctionReference| Target::of("ns", reference);
        let mut weights = reference("f", "", "");
        weights.kind = "function-weights".into();
        assert!(matches!(of(&weights), Err(TargetError::Kind(_))));
        assert_eq!(of(&reference("", "", "")), Err(TargetError::NoName));
        assert_eq!(of(&reference("f", "a", "v")), Err(TargetError::Both));
        for bad in ["../other", "a/b", "f:x", "f?x", "F", "ä"] {
            let outcome = of(&reference(bad, "", ""));
            assert!(matches!(outcome, Err(TargetError::BadName(_))), "{bad}");
            let outcome = of(&reference("f", bad, ""));
            assert!(matches!(outcome, Err(TargetError::BadName(_))), "{bad}");
        }
    }

    #[test]
    fn subpaths_are_paths() {
        assert_eq!(subpath("").unwrap(), "/");
        assert_eq!(subpath("a/b").unwrap(), "/a/b");
        assert_eq!(subpath("/a?b=c").unwrap(), "/a?b=c");
        for bad in [
            "/a b",
            "/a\nb",
            "/../../other/f",
            "/a/./b",
            "/a#b",
            "/\u{0}",
        ] {
            assert!(subpath(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_call_may_take_what_the_function_may() {
        let mut function = Function::new("f", serde_json::from_str("{}").unwrap());
        assert_eq!(deadline(None), UNKNOWN);
        assert_eq!(deadline(Some(&function)), Duration::from_secs(210));
        function.spec.function_timeout = Some(1000);
        assert_eq!(deadline(Some(&function)), Duration::from_secs(1150));
    }
}
