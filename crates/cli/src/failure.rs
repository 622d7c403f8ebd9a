//! What went wrong, in words, and the exit code that tells it to scripts.

use std::io;

use kube::core::Status;

/// An error whose kind a script may want to know.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Exit code 1.
    #[error("{0}")]
    Refused(String),
    /// Exit code 2.
    #[error("{0}")]
    Usage(String),
    /// Exit code 3.
    #[error("{0}")]
    NotFound(String),
    /// Exit code 4.
    #[error("{0}")]
    NotReady(String),
}

impl Failure {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Refused(_) => 1,
            Self::Usage(_) => 2,
            Self::NotFound(_) => 3,
            Self::NotReady(_) => 4,
        }
    }
}

/// Exit code of an error.
pub(crate) fn exit_code(error: &anyhow::Error) -> u8 {
    error
        .downcast_ref::<Failure>()
        .map_or(1, Failure::exit_code)
}

/// True when the reader of stdout went away, which is no failure.
pub(crate) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

/// The error and its causes in one text; a cause whose words its parent already has is
/// left out.
pub(crate) fn text(error: &anyhow::Error) -> String {
    let mut all = String::new();
    for cause in error.chain() {
        let words = cause.to_string();
        if all.contains(&words) {
            continue;
        }
        if !all.is_empty() {
            all.push_str(": ");
        }
        all.push_str(&words);
    }
    all
}

/// Where the objects of a request are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope<'a> {
    /// At the hub.
    Hub,
    /// At the hub, in an organization.
    Organization(&'a str),
    /// In a cluster.
    Cluster,
    /// In a namespace of a cluster.
    Namespace(&'a str),
}

impl Scope<'_> {
    /// Who answers.
    pub fn server(self) -> &'static str {
        match self {
            Self::Hub | Self::Organization(_) => "the hub",
            Self::Cluster | Self::Namespace(_) => "the cluster",
        }
    }

    fn is_hub(self) -> bool {
        matches!(self, Self::Hub | Self::Organization(_))
    }
}

/// What a request was about, for the words of its failure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct About<'a> {
    /// `cluster`.
    pub noun: &'a str,
    /// Its command, `cluster`.
    pub command: &'a str,
    /// Name of the object; empty for a list.
    pub name: &'a str,
    /// Where it is.
    pub scope: Scope<'a>,
    /// `create`.
    pub verb: &'a str,
}

impl About<'_> {
    /// `cluster first in organization demo`.
    pub fn what(&self) -> String {
        let mut what = match self.name {
            "" => format!("{}s", self.noun),
            name => format!("{} {name}", self.noun),
        };
        match self.scope {
            Scope::Hub | Scope::Cluster => {}
            Scope::Organization(name) => what.push_str(&format!(" in organization {name}")),
            Scope::Namespace(name) => what.push_str(&format!(" in namespace {name}")),
        }
        what
    }

    fn list_command(&self) -> String {
        let command = self.command;
        match self.scope {
            Scope::Hub => format!("farplane {command} list"),
            Scope::Organization(name) => format!("farplane {command} list --org {name}"),
            Scope::Cluster => format!("farplane {command} list -A"),
            Scope::Namespace(name) => format!("farplane {command} list -n {name}"),
        }
    }

    /// The object is not there.
    pub fn not_found(&self) -> Failure {
        Failure::NotFound(format!(
            "there is no {}; `{}` shows what there is",
            self.what(),
            self.list_command()
        ))
    }

    /// Words for a failed request.
    pub fn explain(&self, error: kube::Error) -> anyhow::Error {
        match error {
            kube::Error::Api(status) => self.explain_status(&status).into(),
            kube::Error::Service(_) | kube::Error::HyperError(_) => self.unreachable(&error),
            error => anyhow::Error::new(error).context(format!(
                "failed to {} {}",
                self.verb,
                self.what()
            )),
        }
    }

    fn explain_status(&self, status: &Status) -> Failure {
        let what = self.what();
        let message = status.message.trim();
        let server = self.scope.server();
        match status.code {
            404 if is_unknown_kind(status) && !self.scope.is_hub() => Failure::NotFound(
                "functions are not installed in this cluster: `farplane functions install` does it; --cluster and --kubeconfig choose another cluster".to_owned(),
            ),
            404 if is_unknown_kind(status) => Failure::NotFound(
                "Farplane is not installed at this hub: install the chart, or choose another hub with --hub or --hub-kubeconfig".to_owned(),
            ),
            404 => match self.missing_namespace(status) {
                Some(namespace) => Failure::NotFound(format!(
                    "there is no namespace {namespace} in the cluster; `kubectl create namespace {namespace}` makes it"
                )),
                None => self.not_found(),
            },
            409 if status.is_already_exists() => {
                Failure::Refused(format!("{what} already exists; `{}` shows it", self.list_command()))
            }
            409 => Failure::Refused(format!(
                "{what} was changed by somebody else at the same time; repeat the command"
            )),
            401 => Failure::Refused(
                format!("{server} does not accept your credentials: they may have expired"),
            ),
            403 if message.contains("exceeded quota") => Failure::Refused(format!(
                "the quota of the organization does not allow {what}: {message}"
            )),
            403 if message.contains("being terminated") && !self.scope.is_hub() => {
                Failure::Refused(format!("its namespace is being deleted: {message}"))
            }
            403 if message.contains("being terminated") => Failure::Refused(format!(
                "the organization is being deleted, so nothing can be made in it: {message}"
            )),
            403 if !self.scope.is_hub() => Failure::Refused(format!(
                "you may not {} {what}: {message}",
                self.verb
            )),
            403 => Failure::Refused(format!(
                "you may not {} {what}: {message}; ask an admin of the organization or the operator of the hub",
                self.verb
            )),
            422 => Failure::Refused(format!("{server} refuses {what}: {}", causes(status))),
            _ => Failure::Refused(format!("failed to {} {what}: {message}", self.verb)),
        }
    }

    fn missing_namespace(&self, status: &Status) -> Option<String> {
        let details = status.details.as_ref()?;
        let missing = details.kind == "namespaces" && !self.scope.is_hub();
        missing.then(|| details.name.clone())
    }

    fn unreachable(&self, error: &kube::Error) -> anyhow::Error {
        let cause = root(error);
        Failure::Refused(match self.scope.is_hub() {
            true => format!(
                "the hub does not answer ({cause}): is it running? `farplane status` tells"
            ),
            false => format!(
                "the cluster does not answer ({cause}): does the kubeconfig name the right one? `kubectl version` asks it too"
            ),
        })
        .into()
    }
}

/// The innermost cause.
pub(crate) fn root<'a>(error: &'a (dyn std::error::Error + 'static)) -> &'a dyn std::error::Error {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause
}

/// A 404 of the path and not of the object.
pub(crate) fn is_unknown_kind(status: &Status) -> bool {
    status
        .details
        .as_ref()
        .is_none_or(|details| details.name.is_empty())
}

/// `spec.version: must be ...`, one line per cause when there are several.
fn causes(status: &Status) -> String {
    let all: Vec<String> = status
        .details
        .iter()
        .flat_map(|details| &details.causes)
        .map(|cause| match cause.field.as_str() {
            "" | "<nil>" => cause.message.clone(),
            field => format!("{field}: {}", cause.message),
        })
        .collect();
    match all.as_slice() {
        [] => status.message.clone(),
        [one] => one.clone(),
        several => format!("\n  {}", several.join("\n  ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: About<'_> = About {
        noun: "cluster",
        command: "cluster",
        name: "first",
        scope: Scope::Organization("demo"),
        verb: "create",
    };

    fn answer(json: &str) -> kube::Error {
        kube::Error::Api(Box::new(serde_json::from_str(json).unwrap()))
    }

    #[test]
    fn an_absent_object_is_named_and_the_list_is_offered() {
        let error = CLUSTER.explain(answer(
            r#"{"code":404,"reason":"NotFound","message":"x","details":{"name":"first"}}"#,
        ));
        assert_eq!(exit_code(&error), 3);
        assert_eq!(
            text(&error),
            "there is no cluster first in organization demo; `farplane cluster list --org demo` shows what there is"
        );
    }

    #[test]
    fn an_absent_kind_is_another_thing_than_an_absent_object() {
        let error = CLUSTER.explain(answer(
            r#"{"code":404,"reason":"NotFound","message":"404 page not found"}"#,
        ));
        assert!(text(&error).contains("not installed"));
    }

    #[test]
    fn each_refused_field_is_named() {
        let error = CLUSTER.explain(answer(
            r#"{"code":422,"reason":"Invalid","message":"m","details":{"name":"first","causes":[
                {"field":"spec.version","message":"should match"},
                {"field":"spec.controlPlane.replicas","message":"replicas must be 1 or 3"}]}}"#,
        ));
        let text = text(&error);
        assert!(text.contains("\n  spec.version: should match"), "{text}");
        assert!(text.contains("\n  spec.controlPlane.replicas: replicas must be 1 or 3"));
        assert_eq!(exit_code(&error), 1);
    }

    #[test]
    fn a_taken_name_says_so() {
        let error = CLUSTER.explain(answer(
            r#"{"code":409,"reason":"AlreadyExists","message":"m","details":{"name":"first"}}"#,
        ));
        assert!(text(&error).starts_with("cluster first in organization demo already exists"));
    }

    #[test]
    fn causes_are_told_once_and_codes_survive_context() {
        let error = anyhow::Error::new(Failure::NotReady("late".into())).context("wait");
        assert_eq!(text(&error), "wait: late");
        assert_eq!(exit_code(&error), 4);
        let pipe = anyhow::Error::new(io::Error::from(io::ErrorKind::BrokenPipe)).context("print");
        assert!(is_closed_pipe(&pipe));
    }
}
