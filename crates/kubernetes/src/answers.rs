//! Answers to the signing requests of nodes.
//!
//! A host may ask for exactly its own identity and nothing beside it: with its bootstrap
//! certificate or with the node's own for the node's client certificate, with the latter for
//! the kubelet's serving certificate. Everything in a request is compared with what the hub
//! knows of the host; what a request does not say cannot be wrong. Requests of other signers
//! and of other users are the organization's own business.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use farplane_types::{Host, names};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::ResourceExt as _;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::{ParsedCriAttribute, X509CriAttribute};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer as _;

use crate::World;
use crate::addons::{BOOTSTRAP_USER, BOOTSTRAPPERS};
use crate::hosts::holder;

const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const SERVING_SIGNER: &str = "kubernetes.io/kubelet-serving";
const NODE_USER: &str = "system:node:";
const NODES: &str = "system:nodes";
const AUTHENTICATED: &str = "system:authenticated";

/// One answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Name of the request.
    pub request: String,
    /// Approved or denied.
    pub approved: bool,
    /// Why not, for people; empty when approved.
    pub reason: String,
}

/// What to do with one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The host asks for itself.
    Approve,
    /// It asks for what it is not.
    Deny(String),
    /// Not ours to answer, or answered.
    Ignore,
}

/// Answers to the open requests of `world.view`.
pub fn answers(world: &World) -> Vec<Answer> {
    let requests = world.view.iter().flat_map(|view| &view.requests);
    let answer = |request: &CertificateSigningRequest| {
        let (approved, reason) = match decide_request(world, request) {
            Decision::Approve => (true, String::new()),
            Decision::Deny(reason) => (false, reason),
            Decision::Ignore => return None,
        };
        Some(Answer {
            request: request.name_any(),
            approved,
            reason,
        })
    };
    requests.filter_map(answer).collect()
}

/// What to do with one request.
pub fn decide_request(world: &World, request: &CertificateSigningRequest) -> Decision {
    let status = request.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_ref());
    if conditions.is_some_and(|conditions| !conditions.is_empty()) {
        return Decision::Ignore;
    }
    let user = request.spec.username.as_deref().unwrap_or_default();
    let (host, group) = match user.strip_prefix(BOOTSTRAP_USER) {
        Some(host) => (host, BOOTSTRAPPERS),
        None => match user.strip_prefix(NODE_USER) {
            Some(host) => (host, NODES),
            None => return Decision::Ignore,
        },
    };
    let usage = match request.spec.signer_name.as_str() {
        CLIENT_SIGNER => "client auth",
        SERVING_SIGNER if group == NODES => "server auth",
        SERVING_SIGNER => {
            return deny("a host asks for a serving certificate before it is a node");
        }
        _ => return Decision::Ignore,
    };
    match check(world, request, host, group, usage) {
        Ok(()) => Decision::Approve,
        Err(reason) => Decision::Deny(reason),
    }
}

fn deny(reason: &str) -> Decision {
    Decision::Deny(reason.to_owned())
}

fn check(
    world: &World,
    request: &CertificateSigningRequest,
    host: &str,
    group: &str,
    usage: &str,
) -> Result<(), String> {
    let groups: BTreeSet<&str> = texts(request.spec.groups.as_ref()).collect();
    if groups != BTreeSet::from([group, AUTHENTICATED]) {
        return Err(format!(
            "the requestor's groups are not exactly {group} and {AUTHENTICATED}"
        ));
    }
    let usages: BTreeSet<&str> = texts(request.spec.usages.as_ref()).collect();
    let needed = BTreeSet::from([usage, "digital signature"]);
    let allowed = BTreeSet::from([usage, "digital signature", "key encipherment"]);
    if !usages.is_superset(&needed) || !usages.is_subset(&allowed) {
        return Err(format!(
            "the usages are not exactly {usage} and digital signature"
        ));
    }
    let known = ours(world, host)?;
    let asked = Asked::of(&request.spec.request.0)?;
    if asked.common_name != format!("{NODE_USER}{host}") || asked.organization != NODES {
        return Err(format!(
            "the subject is not exactly CN={NODE_USER}{host}, O={NODES}"
        ));
    }
    if usage == "client auth" {
        if asked.has_names {
            return Err("a client certificate of a node has no alternative names".to_owned());
        }
        return Ok(());
    }
    serving_names(world, &asked, known, host)
}

/// The host, when it belongs to this cluster.
fn ours<'a>(world: &'a World, host: &str) -> Result<&'a Host, String> {
    let plan = names::is_valid_name(host)
        .then(|| world.plan_of(host))
        .flatten();
    if !plan.is_some_and(|plan| world.is_ours(plan)) {
        return Err(format!("host {host} does not belong to this cluster"));
    }
    let mut hosts = world.hosts.iter();
    hosts
        .find(|one| one.name_any() == host && one.metadata.deletion_timestamp.is_none())
        .ok_or_else(|| format!("host {host} does not exist any more"))
}

fn serving_names(world: &World, asked: &Asked, host: &Host, name: &str) -> Result<(), String> {
    let facts = host
        .status
        .as_ref()
        .and_then(|status| status.facts.as_ref());
    let address = facts.and_then(|facts| facts.node_address.parse::<Ipv4Addr>().ok());
    if asked.dns_names.is_empty() && asked.addresses.is_empty() {
        return Err("a serving certificate without a name or address is of no use".to_owned());
    }
    if asked.dns_names.iter().any(|one| one != name) {
        return Err(format!("only {name} is a name of this host"));
    }
    let known: Option<Vec<u8>> = address.map(|address| address.octets().to_vec());
    if asked
        .addresses
        .iter()
        .any(|one| Some(one) != known.as_ref())
    {
        return Err("an address is not the host's".to_owned());
    }
    let holder = address.and_then(|address| holder(world, &address.to_string()));
    match holder {
        Some(holder) if !asked.addresses.is_empty() && holder != name => Err(format!(
            "host {holder} of this cluster has this address already"
        )),
        _ => Ok(()),
    }
}

fn texts(list: Option<&Vec<String>>) -> impl Iterator<Item = &str> {
    list.into_iter().flatten().map(String::as_str)
}

/// PEM of a request, as Go writes it but for the end.
fn armored(der: &[u8]) -> String {
    const LINE: usize = 64;
    let encoded = BASE64.encode(der);
    let lines: Vec<&str> = encoded
        .as_bytes()
        .chunks(LINE)
        .filter_map(|line| std::str::from_utf8(line).ok())
        .collect();
    format!(
        "-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----",
        lines.join("\n")
    )
}

/// What a signing request asks for.
struct Asked {
    common_name: String,
    organization: String,
    has_names: bool,
    dns_names: Vec<String>,
    addresses: Vec<Vec<u8>>,
}

impl Asked {
    fn of(pem: &[u8]) -> Result<Self, String> {
        let mut blocks = Pem::iter_from_buffer(pem);
        let (Some(Ok(block)), None) = (blocks.next(), blocks.next()) else {
            return Err("the request is not one block of PEM".to_owned());
        };
        if block.label != "CERTIFICATE REQUEST" {
            return Err("the PEM is not of a certificate request".to_owned());
        }
        // Who signs reads the text anew and by other rules; only one form leaves no choice.
        if pem.trim_ascii() != armored(&block.contents).as_bytes() {
            return Err("the PEM is not in its plain form".to_owned());
        }
        let Ok((rest, csr)) = X509CertificationRequest::from_der(&block.contents) else {
            return Err("the request cannot be read".to_owned());
        };
        if !rest.is_empty() {
            return Err("something follows the request".to_owned());
        }
        if csr.verify_signature().is_err() {
            return Err("the request is not signed by its own key".to_owned());
        }
        let subject = &csr.certification_request_info.subject;
        let exact = subject.iter_attributes().count() == 2;
        let text = |value: Option<&x509_parser::x509::AttributeTypeAndValue<'_>>| {
            let text = value.and_then(|value| value.as_str().ok());
            text.unwrap_or_default().to_owned()
        };
        let mut asked = Self {
            common_name: text(subject.iter_common_name().next()),
            organization: text(subject.iter_organization().next()),
            has_names: false,
            dns_names: Vec::new(),
            addresses: Vec::new(),
        };
        if !exact {
            return Err("the subject has more than a common name and an organization".to_owned());
        }
        // A second list of extensions would be signed without being looked at here.
        let attributes = csr.certification_request_info.attributes();
        let plain = |attribute: &X509CriAttribute<'_>| {
            let parsed = attribute.parsed_attribute();
            matches!(parsed, ParsedCriAttribute::ExtensionRequest(_))
        };
        if attributes.len() > 1 || !attributes.iter().all(plain) {
            return Err("the request has attributes that no kubelet asks for".to_owned());
        }
        for extension in csr.requested_extensions().into_iter().flatten() {
            let ParsedExtension::SubjectAlternativeName(names) = extension else {
                return Err("the request has an extension that no kubelet asks for".to_owned());
            };
            asked.has_names = true;
            asked.add(&names.general_names)?;
        }
        Ok(asked)
    }

    fn add(&mut self, names: &[GeneralName<'_>]) -> Result<(), String> {
        for name in names {
            match name {
                GeneralName::DNSName(name) => self.dns_names.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => self.addresses.push(bytes.to_vec()),
                _ => return Err("the request has a name of a kind that no node has".to_owned()),
            }
        }
        Ok(())
    }
}
