//! Which trigger a request belongs to: a table that is changed one trigger at a time. Pure.
//!
//! Order: an exact path, then a path with variables (the one with more fixed text first), then
//! the longest prefix; at one path those for one host before those for any. Of triggers that want
//! the same, the older one has it; the other one says
//! so in its status and takes over when the first goes.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use farplane_functions_types::{CorsConfig, FunctionReference, HTTPTrigger};
use http::Method;
use kube::ResourceExt as _;
use regex::Regex;

use crate::path::{below, decode};

/// Why a trigger has no route.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// A variable is not closed, or its expression is none.
    #[error("path template {template:?} cannot be read: {reason}")]
    Template {
        /// The template.
        template: String,
        /// Why.
        reason: String,
    },
    /// A method that HTTP does not have.
    #[error("method {0:?} is no HTTP method")]
    Method(String),
    /// Nothing to match.
    #[error("neither relativeurl nor prefix is set")]
    Empty,
}

/// One trigger, ready to be matched.
#[derive(Debug)]
pub struct Route {
    /// Namespace of the trigger and its function.
    pub namespace: String,
    /// Name of the trigger.
    pub trigger: String,
    /// What is called.
    pub function: FunctionReference,
    /// Requests of other origins.
    pub cors: Option<CorsConfig>,
    /// Path or prefix as the trigger has it.
    pub path: String,
    /// Answered with 202 at once.
    pub is_async: bool,
    /// Methods it takes; never empty.
    pub methods: Vec<Method>,
    host: String,
    pattern: Pattern,
    keep_prefix: bool,
    /// Creation and UID: the order of those that want the same.
    age: (i64, String),
}

#[derive(Debug)]
enum Pattern {
    Exact(String),
    Template {
        text: String,
        regex: Regex,
        names: Vec<String>,
        fixed: usize,
    },
    Prefix(String),
}

impl Pattern {
    /// Triggers with equal keys want the same requests.
    fn key(&self) -> String {
        match self {
            Self::Exact(path) => format!("={path}"),
            Self::Template { text, .. } => format!("~{text}"),
            Self::Prefix(path) => format!("^{path}"),
        }
    }
}

impl Route {
    /// Reads a trigger.
    ///
    /// # Errors
    /// When it makes no route.
    pub fn of(trigger: &HTTPTrigger) -> Result<Self, Invalid> {
        let spec = &trigger.spec;
        let prefix = spec
            .prefix
            .as_deref()
            .unwrap_or_default()
            .trim_end_matches('/');
        let pattern = if !prefix.is_empty() {
            Pattern::Prefix(prefix.to_owned())
        } else if spec.relative_url.is_empty() {
            return Err(Invalid::Empty);
        } else {
            template(&spec.relative_url)?
        };
        let mut words: Vec<&str> = spec.methods.iter().map(String::as_str).collect();
        let one = spec.method.as_str();
        if !one.is_empty() && !words.iter().any(|word| word.eq_ignore_ascii_case(one)) {
            words.push(one);
        }
        if words.is_empty() {
            words.push("GET");
        }
        let methods: Result<Vec<Method>, Invalid> = words
            .into_iter()
            .map(|word| {
                Method::from_bytes(word.to_uppercase().as_bytes())
                    .map_err(|_| Invalid::Method(word.to_owned()))
            })
            .collect();
        let created = trigger.creation_timestamp();
        let age = created.map_or(0, |time| time.0.as_millisecond());
        let path = if prefix.is_empty() {
            spec.relative_url.as_str()
        } else {
            prefix
        };
        Ok(Self {
            path: path.to_owned(),
            namespace: trigger.namespace().unwrap_or_default(),
            trigger: trigger.name_any(),
            function: spec.function_ref.clone(),
            cors: spec.cors_config.clone(),
            is_async: spec.invocation_mode == "async",
            methods: methods?,
            host: bare_host(&spec.host),
            pattern,
            keep_prefix: spec.keep_prefix,
            age: (age, trigger.uid().unwrap_or_default()),
        })
    }

    fn takes(&self, method: &Method, host: &str) -> bool {
        self.methods.contains(method) && self.is_for(host)
    }

    /// Order at one path: those for one host first, then the older ones.
    fn order(&self) -> (bool, &(i64, String)) {
        (self.host.is_empty(), &self.age)
    }

    fn is_for(&self, host: &str) -> bool {
        self.host.is_empty() || self.host == host
    }
}

/// A request's route.
#[derive(Clone, Debug)]
pub struct Matched {
    /// The trigger.
    pub route: Arc<Route>,
    /// Path that the function sees.
    pub path: String,
    /// Variables of the path.
    pub variables: Vec<(String, String)>,
}

/// What the table says of a request.
#[derive(Clone, Debug)]
pub enum Found {
    /// This trigger has it.
    Route(Matched),
    /// The path is known, with these methods only.
    OtherMethods(Vec<Arc<Route>>),
    /// Nobody has it.
    Nothing,
}

/// All routes. Changing one trigger costs as much as the triggers of the same path.
#[derive(Debug, Default)]
pub struct Table {
    /// By namespace and name.
    triggers: HashMap<(String, String), Arc<Route>>,
    exact: HashMap<String, Vec<Arc<Route>>>,
    /// Most fixed text first.
    templates: Vec<Arc<Route>>,
    prefixes: HashMap<String, Vec<Arc<Route>>>,
}

impl Table {
    /// How many there are.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.triggers.len()
    }

    /// Puts a trigger in, in place of what it was before.
    pub fn put(&mut self, route: Route) {
        let key = (route.namespace.clone(), route.trigger.clone());
        self.remove(&key.0, &key.1);
        let route = Arc::new(route);
        match &route.pattern {
            Pattern::Exact(path) => {
                by_age(self.exact.entry(path.clone()).or_default(), route.clone());
            }
            Pattern::Prefix(path) => {
                by_age(
                    self.prefixes.entry(path.clone()).or_default(),
                    route.clone(),
                );
            }
            Pattern::Template { fixed, .. } => {
                let order = |other: &Route| match &other.pattern {
                    Pattern::Template { fixed, .. } => *fixed,
                    _ => 0,
                };
                let at = self.templates.partition_point(|other| {
                    (Reverse(order(other)), other.order()) < (Reverse(*fixed), route.order())
                });
                self.templates.insert(at, route.clone());
            }
        }
        self.triggers.insert(key, route);
    }

    /// Takes a trigger out.
    pub fn remove(&mut self, namespace: &str, name: &str) {
        let Some(route) = self
            .triggers
            .remove(&(namespace.to_owned(), name.to_owned()))
        else {
            return;
        };
        let same = |other: &Arc<Route>| !Arc::ptr_eq(other, &route);
        match &route.pattern {
            Pattern::Exact(path) => {
                if let Some(list) = self.exact.get_mut(path) {
                    list.retain(same);
                    if list.is_empty() {
                        self.exact.remove(path);
                    }
                }
            }
            Pattern::Prefix(path) => {
                if let Some(list) = self.prefixes.get_mut(path) {
                    list.retain(same);
                    if list.is_empty() {
                        self.prefixes.remove(path);
                    }
                }
            }
            Pattern::Template { .. } => self.templates.retain(same),
        }
    }

    /// Finds the trigger of a request.
    pub fn find(&self, method: &Method, host: &str, path: &str) -> Found {
        let host = bare_host(host);
        let sent = path;
        let decoded = decode(sent);
        let path: &str = &decoded;
        let mut others: Vec<Arc<Route>> = Vec::new();
        let pick = |list: &[Arc<Route>], others: &mut Vec<Arc<Route>>| {
            let found = list
                .iter()
                .find(|route| route.takes(method, &host))
                .cloned();
            if found.is_none() {
                others.extend(list.iter().filter(|route| route.is_for(&host)).cloned());
            }
            found
        };
        if let Some(list) = self.exact.get(path)
            && let Some(route) = pick(list, &mut others)
        {
            return Found::Route(Matched {
                route,
                path: "/".to_owned(),
                variables: Vec::new(),
            });
        }
        for route in &self.templates {
            let Pattern::Template { regex, names, .. } = &route.pattern else {
                continue;
            };
            let Some(captures) = regex.captures(path) else {
                continue;
            };
            if !route.is_for(&host) {
                continue;
            }
            if !route.methods.contains(method) {
                others.push(route.clone());
                continue;
            }
            let values = names.iter().enumerate().filter_map(|(at, name)| {
                let value = captures.name(&format!("v{at}"))?;
                Some((name.clone(), value.as_str().to_owned()))
            });
            let variables = values.collect();
            return Found::Route(Matched {
                route: route.clone(),
                path: "/".to_owned(),
                variables,
            });
        }
        let mut end = path.len();
        loop {
            let prefix = &path[..end];
            if let Some(list) = self.prefixes.get(prefix)
                && let Some(route) = pick(list, &mut others)
            {
                let path = if route.keep_prefix {
                    sent
                } else {
                    below(sent, prefix)
                }
                .to_owned();
                return Found::Route(Matched {
                    route,
                    path,
                    variables: Vec::new(),
                });
            }
            match prefix.rfind('/') {
                Some(at) if at > 0 => end = at,
                _ => break,
            }
        }
        if others.is_empty() {
            Found::Nothing
        } else {
            Found::OtherMethods(others)
        }
    }

    /// The older trigger that has what this one wants, if any.
    pub fn conflict(&self, namespace: &str, name: &str) -> Option<(String, String)> {
        let route = self
            .triggers
            .get(&(namespace.to_owned(), name.to_owned()))?;
        let list = match &route.pattern {
            Pattern::Exact(path) => self.exact.get(path)?.as_slice(),
            Pattern::Prefix(path) => self.prefixes.get(path)?.as_slice(),
            Pattern::Template { .. } => self.templates.as_slice(),
        };
        let key = route.pattern.key();
        list.iter()
            .take_while(|other| !Arc::ptr_eq(other, route))
            .find(|other| {
                let method = other
                    .methods
                    .iter()
                    .any(|method| route.methods.contains(method));
                method && other.host == route.host && other.pattern.key() == key
            })
            .map(|other| (other.namespace.clone(), other.trigger.clone()))
    }
}

fn by_age(list: &mut Vec<Arc<Route>>, route: Arc<Route>) {
    let at = list.partition_point(|other| other.order() < route.order());
    list.insert(at, route);
}

/// A host without its port, in lower case.
fn bare_host(host: &str) -> String {
    let bare = match host.rsplit_once(':') {
        Some((bare, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => bare,
        _ => host,
    };
    bare.to_ascii_lowercase()
}

/// `/a/{name}/{id:[0-9]+}`; without variables it is an exact path.
fn template(text: &str) -> Result<Pattern, Invalid> {
    let fail = |reason: &str| {
        Err(Invalid::Template {
            template: text.to_owned(),
            reason: reason.to_owned(),
        })
    };
    let mut expression = String::from("^");
    let mut names = Vec::new();
    let mut fixed = 0;
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        let (before, after) = rest.split_at(open);
        let Some(close) = closing(after) else {
            return fail("a { is not closed");
        };
        fixed += before.len();
        expression.push_str(&regex::escape(before));
        let (name, wanted) = match after[1..close].split_once(':') {
            Some((name, wanted)) => (name, wanted),
            None => (&after[1..close], "[^/]+"),
        };
        if name.is_empty() || wanted.is_empty() {
            return fail("a variable needs a name, and after a colon an expression");
        }
        expression.push_str(&format!("(?P<v{}>(?:{wanted}))", names.len()));
        names.push(name.to_owned());
        rest = &after[close + 1..];
    }
    if names.is_empty() {
        return Ok(Pattern::Exact(text.to_owned()));
    }
    fixed += rest.len();
    expression.push_str(&regex::escape(rest));
    expression.push('$');
    match regex::RegexBuilder::new(&expression)
        .size_limit(1 << 20)
        .build()
    {
        Ok(regex) => Ok(Pattern::Template {
            text: text.to_owned(),
            regex,
            names,
            fixed,
        }),
        Err(error) => fail(&error.to_string()),
    }
}

/// Where the brace that opens `text` is closed; expressions may have braces of their own.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0;
    for (at, letter) in text.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
#[path = "route_tests.rs"]
mod tests;
