//! What a trigger asks for, and whether it may have it.
//!
//! Pure. Promises: an [`Ask`] holds nothing that the operator's [`Exposure`] does not allow and
//! nothing that a proxy could read as more than a name, a path or a value. A path is never
//! wider than the trigger's own route: the Service behind is that of all tenants.

use std::collections::BTreeMap;

use farplane_functions_types::HTTPTrigger;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::policy::{Exposure, is_hostname, is_key, is_label, is_name};
use crate::objects::Said;

/// As many as an HTTPRoute may have.
const HOSTNAMES: usize = 16;
const PARENTS: usize = 32;
const ANNOTATIONS: usize = 32;
/// Longest value of an annotation, and longest path.
const TEXT: usize = 1024;
/// Of a tenant's text, in a message.
const SHOWN: usize = 100;
/// Keys that are ours.
const OWN: &str = "farplane.io/";
/// In the languages of proxies' configurations these end a value or a line.
const ENDS: &str = ";{}#\"'`\\";

/// What is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    pub route: Route,
    /// For any host when empty.
    pub hostnames: Vec<String>,
    pub path: Path,
    pub annotations: BTreeMap<String, String>,
}

/// As which kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// An Ingress, with a Secret's certificate.
    Ingress { secret: Option<String> },
    /// An HTTPRoute.
    Gateway { parents: Vec<Parent> },
}

/// Requests for which paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    Exact(String),
    /// This one and those below, by whole segments.
    Prefix(String),
}

/// A Gateway, or one listener of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parent {
    pub namespace: String,
    pub name: String,
    pub section: Option<String>,
    pub port: Option<u16>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct IngressConfig {
    annotations: Option<BTreeMap<String, String>>,
    path: String,
    host: String,
    tls: String,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RouteConfig {
    provider: String,
    hostnames: Option<Vec<String>>,
    path: String,
    annotations: Option<BTreeMap<String, String>>,
    tls: String,
    gateway: Option<GatewayConfig>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct GatewayConfig {
    parent_refs: Option<Vec<ParentRef>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct ParentRef {
    name: String,
    namespace: Option<String>,
    section_name: Option<String>,
    port: Option<i64>,
}

impl Ask {
    /// None when a trigger asks for nothing; else what is made, or why nothing is.
    ///
    /// `namespace` is the platform's. As in Fission `routeConfig` comes before `createingress`.
    pub fn of(
        trigger: &HTTPTrigger,
        policy: &Exposure,
        namespace: &str,
    ) -> Option<Result<Self, Said>> {
        let spec = &trigger.spec;
        if let Some(raw) = &spec.route_config {
            return match parse::<RouteConfig>("routeConfig", &raw.0) {
                Ok(config) if config.provider.is_empty() => None,
                Ok(config) => Some(Self::new(trigger, config, policy, namespace)),
                Err(said) => Some(Err(said)),
            };
        }
        if !spec.create_ingress {
            return None;
        }
        let config = if spec.ingress_config.is_empty() {
            Ok(IngressConfig::default())
        } else {
            parse::<IngressConfig>("ingressconfig", &spec.ingress_config.0)
        };
        Some(config.and_then(|config| {
            let config = RouteConfig {
                provider: "ingress".to_owned(),
                hostnames: Some(vec![config.host]),
                path: config.path,
                annotations: config.annotations,
                tls: config.tls,
                gateway: None,
            };
            Self::new(trigger, config, policy, namespace)
        }))
    }

    fn new(
        trigger: &HTTPTrigger,
        config: RouteConfig,
        policy: &Exposure,
        namespace: &str,
    ) -> Result<Self, Said> {
        let hostnames = hostnames(&trigger.spec.host, config.hostnames, policy)?;
        let path = path(trigger, &config.path)?;
        let annotations = annotations(config.annotations.unwrap_or_default(), policy)?;
        let route = match config.provider.as_str() {
            "ingress" => Route::Ingress {
                secret: secret(config.tls, policy)?,
            },
            // As in Fission `tls` says nothing here: certificates are the Gateway's.
            "gateway" => {
                let wanted = config.gateway.and_then(|gateway| gateway.parent_refs);
                let parents = parents(wanted.unwrap_or_default(), policy, namespace)?;
                Route::Gateway { parents }
            }
            other => {
                let other = shown(other);
                return Err(invalid(format!(
                    "routeConfig.provider is {other}; write ingress or gateway"
                )));
            }
        };
        Ok(Self {
            route,
            hostnames,
            path,
            annotations,
        })
    }
}

impl Path {
    pub fn text(&self) -> &str {
        match self {
            Self::Exact(text) | Self::Prefix(text) => text,
        }
    }
}

fn invalid(message: String) -> Said {
    Said::no("InvalidIngressConfig", message)
}

/// A tenant's text: short, quoted, without line ends.
fn shown(text: &str) -> String {
    quoted(text, SHOWN)
}

/// The beginning of a text that is not ours, on one line.
pub(crate) fn quoted(text: &str, length: usize) -> String {
    let mut short: String = text.chars().take(length).collect();
    if short.len() < text.len() {
        short.push_str("...");
    }
    format!("{short:?}")
}

fn parse<T: DeserializeOwned>(field: &str, value: &serde_json::Value) -> Result<T, Said> {
    T::deserialize(value).map_err(|error| {
        let error = error.to_string();
        invalid(format!("{field} cannot be read: {}", shown(&error)))
    })
}

fn hostnames(
    own: &str,
    wanted: Option<Vec<String>>,
    policy: &Exposure,
) -> Result<Vec<String>, Said> {
    let wanted = wanted.unwrap_or_default();
    let is_any = |host: &String| host.is_empty() || host == "*";
    let asks_for_any = wanted.iter().any(|host| host == "*");
    // As in Fission: of a list those that name a host count.
    let mut hosts: Vec<String> = wanted.into_iter().filter(|host| !is_any(host)).collect();
    if hosts.is_empty() && !asks_for_any && !own.is_empty() && own != "*" {
        hosts.push(own.to_owned());
    }
    hosts.sort();
    hosts.dedup();
    if hosts.len() > HOSTNAMES {
        let message = format!("{} hostnames; at most {HOSTNAMES} can be had", hosts.len());
        return Err(invalid(message));
    }
    if hosts.is_empty() && !policy.allows_host("") {
        return Err(Said::no(
            "HostnameNotAllowed",
            "no hostname is named, and this platform does not expose routes for any host: name \
             one that the operator allows (chart value exposure.hostnames)",
        ));
    }
    for host in &hosts {
        if !is_hostname(host) {
            return Err(invalid(format!(
                "hostname {} is not a DNS name in lower case, without port and path",
                shown(host)
            )));
        }
        if !policy.allows_host(host) {
            return Err(Said::no(
                "HostnameNotAllowed",
                format!(
                    "hostname {} is not one that the operator allows: name another one, or ask \
                     for it to be added to the chart value exposure.hostnames",
                    shown(host)
                ),
            ));
        }
    }
    Ok(hosts)
}

/// What the trigger itself answers to, as far as it can be told to a proxy.
fn own_path(trigger: &HTTPTrigger) -> Result<Path, Said> {
    let spec = &trigger.spec;
    let prefix = spec.prefix.as_deref().unwrap_or_default();
    let prefix = prefix.trim_end_matches('/');
    if !prefix.is_empty() {
        return Ok(Path::Prefix(prefix.to_owned()));
    }
    let Some((fixed, _)) = spec.relative_url.split_once('{') else {
        return Ok(Path::Exact(spec.relative_url.clone()));
    };
    // The segments before the first one that varies.
    let whole = fixed.rfind('/').map_or("", |end| &fixed[..end]);
    if whole.is_empty() {
        return Err(Said::no(
            "PathNotAllowed",
            format!(
                "relativeurl {} begins with a part that varies, so all routes of the platform \
                 would be exposed: begin it with a fixed segment",
                shown(&spec.relative_url)
            ),
        ));
    }
    Ok(Path::Prefix(whole.to_owned()))
}

fn path(trigger: &HTTPTrigger, wanted: &str) -> Result<Path, Said> {
    let own = own_path(trigger)?;
    let spec = &trigger.spec;
    let is_own = wanted.is_empty()
        || wanted == spec.relative_url
        || Some(wanted) == spec.prefix.as_deref()
        || wanted == own.text();
    let path = match (is_own, &own) {
        (true, _) => own,
        (false, Path::Exact(_)) => return Err(outside(wanted, &own)),
        (false, Path::Prefix(base)) => {
            let wanted = wanted.trim_end_matches('/');
            let below = wanted.strip_prefix(base.as_str());
            if !below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
                return Err(outside(wanted, &own));
            }
            Path::Prefix(wanted.to_owned())
        }
    };
    if !is_plain(path.text()) {
        return Err(invalid(format!(
            "path {} cannot be told to a proxy: it has to begin with / and hold only letters, \
             digits, - . _ ~ and /, and no segment that is empty, . or ..",
            shown(path.text())
        )));
    }
    Ok(path)
}

fn outside(wanted: &str, own: &Path) -> Said {
    Said::no(
        "PathNotAllowed",
        format!(
            "path {} is not within the trigger's own route {}: leave it out, or write one below \
             prefix",
            shown(wanted),
            shown(own.text())
        ),
    )
}

/// A path that is the same in every proxy's configuration.
fn is_plain(path: &str) -> bool {
    let Some(rest) = path.strip_prefix('/') else {
        return false;
    };
    let is_char = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
    // One slash may end it.
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    path.len() <= TEXT
        && rest
            .split('/')
            .all(|part| !matches!(part, "" | "." | "..") && part.chars().all(is_char))
}

fn annotations(
    wanted: BTreeMap<String, String>,
    policy: &Exposure,
) -> Result<BTreeMap<String, String>, Said> {
    if wanted.len() > ANNOTATIONS {
        let count = wanted.len();
        let message = format!("{count} annotations; at most {ANNOTATIONS} can be had");
        return Err(invalid(message));
    }
    for (key, value) in &wanted {
        if !is_key(key) {
            let message = format!("annotation {} has a key that is none", shown(key));
            return Err(invalid(message));
        }
        if key.starts_with(OWN) || !policy.allows_annotation(key) {
            return Err(Said::no(
                "AnnotationNotAllowed",
                format!(
                    "annotation {} is not one that the operator allows: take it out, or ask for \
                     it to be added to the chart value exposure.annotations",
                    shown(key)
                ),
            ));
        }
        let is_char = |c: char| (c == ' ' || c.is_ascii_graphic()) && !ENDS.contains(c);
        if value.len() > TEXT || !value.chars().all(is_char) {
            return Err(Said::no(
                "AnnotationNotAllowed",
                format!(
                    "the value of annotation {} is longer than {TEXT} characters, or holds a \
                     line end, one of {ENDS} or what is not ASCII",
                    shown(key)
                ),
            ));
        }
    }
    Ok(wanted)
}

fn secret(wanted: String, policy: &Exposure) -> Result<Option<String>, Said> {
    if wanted.is_empty() || policy.allows_secret(&wanted) {
        return Ok(Some(wanted).filter(|name| !name.is_empty()));
    }
    Err(Said::no(
        "TlsSecretNotAllowed",
        format!(
            "tls names Secret {}, which is not one that the operator allows: take it out, or ask \
             for it to be added to the chart value exposure.tlsSecrets",
            shown(&wanted)
        ),
    ))
}

fn parents(
    wanted: Vec<ParentRef>,
    policy: &Exposure,
    own_namespace: &str,
) -> Result<Vec<Parent>, Said> {
    if wanted.len() > PARENTS {
        let count = wanted.len();
        return Err(invalid(format!(
            "{count} parentRefs; at most {PARENTS} can be had"
        )));
    }
    if wanted.is_empty() {
        let (namespace, name) = policy.default_parent().ok_or_else(|| {
            Said::no(
                "GatewayNotAllowed",
                "the operator allows no Gateway (chart value exposure.parents)",
            )
        })?;
        return Ok(vec![Parent {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            section: None,
            port: None,
        }]);
    }
    wanted
        .into_iter()
        .map(|one| parent(one, policy, own_namespace))
        .collect()
}

fn parent(wanted: ParentRef, policy: &Exposure, own_namespace: &str) -> Result<Parent, Said> {
    let namespace = wanted.namespace.filter(|namespace| !namespace.is_empty());
    let namespace = namespace.unwrap_or_else(|| own_namespace.to_owned());
    if !is_label(&namespace) || !is_name(&wanted.name) {
        return Err(invalid(format!(
            "parentRefs: namespace {} and name {} are not those of a Gateway",
            shown(&namespace),
            shown(&wanted.name)
        )));
    }
    if !policy.allows_parent(&namespace, &wanted.name) {
        return Err(Said::no(
            "GatewayNotAllowed",
            format!(
                "Gateway {} is not one that the operator allows: name another one, or ask for it \
                 to be added to the chart value exposure.parents",
                shown(&format!("{namespace}/{}", wanted.name))
            ),
        ));
    }
    let section = wanted.section_name.filter(|section| !section.is_empty());
    if let Some(bad) = section.as_deref().filter(|section| !is_name(section)) {
        return Err(invalid(format!(
            "parentRefs: sectionName {} is not the name of a listener",
            shown(bad)
        )));
    }
    let port = wanted.port.filter(|port| *port != 0);
    let port = port.map(|port| {
        let fits = u16::try_from(port).ok();
        fits.ok_or_else(|| invalid(format!("parentRefs: {port} is no port")))
    });
    Ok(Parent {
        namespace,
        name: wanted.name,
        section,
        port: port.transpose()?,
    })
}

#[cfg(test)]
#[path = "ask_tests.rs"]
mod tests;
