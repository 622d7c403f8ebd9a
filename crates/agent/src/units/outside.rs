//! The way of the machine's programs to the outside, where it leads through a proxy.
//!
//! The hub does not know a site's proxy, and shall not know its password. A plan says which of
//! its processes go outside, and what they reach without a proxy in any case, by setting
//! `NO_PROXY`; the agent adds the rest.

use std::collections::BTreeMap;

const EXCLUDED: &str = "NO_PROXY";

/// The site's proxy.
#[derive(Clone, PartialEq, Eq)]
pub struct Outside {
    /// `http://[user:password@]host:port`.
    pub proxy: String,
    /// What the site reaches without it: names, addresses and ranges with commas.
    pub excluded: Option<String>,
}

impl std::fmt::Debug for Outside {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The proxy's address may hold a password.
        write!(formatter, "Outside({:?})", self.excluded)
    }
}

impl Outside {
    /// Adds to the environment of a process, when it is one that goes outside.
    pub(super) fn add_to(&self, environment: &mut BTreeMap<String, String>) {
        let Some(excluded) = environment.get_mut(EXCLUDED) else {
            return;
        };
        if let Some(more) = self.excluded.as_deref().filter(|it| !it.trim().is_empty()) {
            let separator = if excluded.is_empty() { "" } else { "," };
            *excluded = format!("{excluded}{separator}{more}");
        }
        for name in ["HTTPS_PROXY", "HTTP_PROXY"] {
            environment.insert(name.to_owned(), self.proxy.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(outside: &Outside, planned: &[(&str, &str)]) -> Vec<(String, String)> {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let mut environment = planned.iter().map(own).collect();
        outside.add_to(&mut environment);
        environment.into_iter().collect()
    }

    #[test]
    fn only_what_goes_outside_hears_of_the_proxy() {
        let mut outside = Outside {
            proxy: "http://me:secret@proxy.test:3128".to_owned(),
            excluded: Some("registry.test".to_owned()),
        };
        assert_eq!(seen(&outside, &[]), []);
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let proxy = &outside.proxy.clone();
        assert_eq!(
            seen(&outside, &[("NO_PROXY", "10.96.0.0/16")]),
            [
                pair("HTTPS_PROXY", proxy),
                pair("HTTP_PROXY", proxy),
                pair("NO_PROXY", "10.96.0.0/16,registry.test"),
            ]
        );
        outside.excluded = None;
        let alone = seen(&outside, &[("NO_PROXY", "")]);
        assert!(alone.contains(&pair("NO_PROXY", "")));
        assert!(!format!("{outside:?}").contains("secret"));
    }
}
