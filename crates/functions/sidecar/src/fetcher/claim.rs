//! Whether a Pod may still be given code. Pure but for one look at the disk at the start.

use std::collections::BTreeSet;
use std::path::Path;

use farplane_functions_types::wire::{FetcherState, FunctionKey, SpecializeRequest};

/// Names of code in Pods of one function. In Pods of many, each has its function's UID.
const SINGLE: [&str; 2] = ["user", "deployarchive"];

/// What was begun in this Pod.
#[derive(Debug, Default)]
pub struct Claims {
    begun: BTreeSet<String>,
    /// Something was there before this process: begun by an earlier one.
    inherited: bool,
    function: Option<FunctionKey>,
}

/// The Pod is not generic any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this Pod was specialised before{}; take another", .function.as_ref().map(|key| format!(", for function {}/{}", key.namespace, key.name)).unwrap_or_default())]
pub struct Taken {
    /// Whose code it has, when that is known.
    pub function: Option<FunctionKey>,
}

impl Claims {
    /// What is true of a Pod whose shared directory may have been used by an earlier process.
    pub fn of(shared: &Path) -> Self {
        let used = shared.read_dir().is_ok_and(|mut entries| {
            entries.any(|entry| entry.is_ok_and(|entry| entry.file_name() != "lost+found"))
        });
        Self {
            inherited: used,
            ..Self::default()
        }
    }

    /// Takes the Pod for a function.
    ///
    /// # Errors
    /// When it was taken before, be it that that failed: the runtime may have half of it.
    pub fn begin(&mut self, request: &SpecializeRequest) -> Result<(), Taken> {
        let name = &request.fetch.filename;
        let single = |name: &String| SINGLE.contains(&name.as_str());
        let alone = single(name) || self.begun.iter().any(single);
        if self.inherited || (alone && !self.begun.is_empty()) || self.begun.contains(name) {
            let function = self.function.clone();
            return Err(Taken { function });
        }
        self.begun.insert(name.clone());
        Ok(())
    }

    /// The runtime has the code.
    pub fn loaded(&mut self, function: Option<FunctionKey>) {
        self.function = function;
    }

    /// What the executor is told.
    pub fn state(&self) -> FetcherState {
        FetcherState {
            function: self.function.clone(),
            begun: self.inherited || !self.begun.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(filename: &str) -> SpecializeRequest {
        let mut request = SpecializeRequest::default();
        filename.clone_into(&mut request.fetch.filename);
        request
    }

    #[test]
    fn a_pod_is_specialised_once() {
        let mut claims = Claims::default();
        assert!(!claims.state().begun);
        claims.begin(&request("deployarchive")).unwrap();
        assert!(claims.state().begun);
        assert_eq!(claims.state().function, None);
        let key = FunctionKey {
            name: "hello".into(),
            namespace: "demo".into(),
            ..FunctionKey::default()
        };
        claims.loaded(Some(key.clone()));
        assert_eq!(claims.state().function, Some(key));
        for name in ["deployarchive", "user", "some-uid"] {
            let taken = claims.begin(&request(name)).unwrap_err();
            assert!(taken.to_string().contains("demo/hello"), "{taken}");
        }
    }

    #[test]
    fn a_pod_of_many_functions_takes_each_once() {
        let mut claims = Claims::default();
        claims.begin(&request("uid-1")).unwrap();
        claims.begin(&request("uid-2")).unwrap();
        assert!(claims.begin(&request("uid-1")).is_err());
        assert!(claims.begin(&request("deployarchive")).is_err());
    }

    #[test]
    fn a_restarted_fetcher_knows_that_its_pod_was_used() {
        let directory = tempfile::tempdir().unwrap();
        assert!(!Claims::of(directory.path()).state().begun);
        std::fs::write(directory.path().join("deployarchive"), "x").unwrap();
        let mut claims = Claims::of(directory.path());
        assert!(claims.state().begun);
        assert!(claims.begin(&request("deployarchive")).is_err());
    }
}
