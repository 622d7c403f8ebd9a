//! `farplane org create`

use anyhow::Result;
use clap::Args;
use farplane_types::{Member, Organization, OrganizationLimits, OrganizationSpec, Role, Subject};

use crate::App;
use crate::arguments::name;
use crate::{hub, objects};

/// A new organization.
#[derive(Args, Debug)]
pub(crate) struct CreateArgs {
    /// Name
    #[arg(value_parser = name)]
    name: String,
    /// Name shown to people
    #[arg(long, value_name = "TEXT")]
    display_name: Option<String>,
    /// Admin, as `user:NAME` or `group:NAME` of the identity provider; may be repeated
    #[arg(long, value_name = "SUBJECT", value_parser = subject)]
    admin: Vec<Subject>,
    /// Developer, likewise
    #[arg(long, value_name = "SUBJECT", value_parser = subject)]
    developer: Vec<Subject>,
    /// Viewer, likewise
    #[arg(long, value_name = "SUBJECT", value_parser = subject)]
    viewer: Vec<Subject>,
    /// Most hosts
    #[arg(long, value_name = "N")]
    max_hosts: Option<u32>,
    /// Most clusters
    #[arg(long, value_name = "N")]
    max_clusters: Option<u32>,
    /// Most virtual CPUs over all hosts that clusters use
    #[arg(long, value_name = "N")]
    max_vcpus: Option<u32>,
}

/// Makes it.
pub(crate) async fn run(app: &App, args: CreateArgs) -> Result<()> {
    let name = args.name.clone();
    let client = hub::connect(app).await?;
    let made = objects::create(&client, None, &Organization::new(&name, spec(args))).await?;
    app.out
        .made(&made, format_args!("organization {name} is made"))
}

fn spec(args: CreateArgs) -> OrganizationSpec {
    let roles = [
        (Role::Admin, args.admin),
        (Role::Developer, args.developer),
        (Role::Viewer, args.viewer),
    ];
    let members = roles.into_iter().flat_map(|(role, subjects)| {
        let member = move |subject| Member { subject, role };
        subjects.into_iter().map(member)
    });
    OrganizationSpec {
        display_name: args.display_name,
        members: members.collect(),
        limits: OrganizationLimits {
            hosts: args.max_hosts,
            clusters: args.max_clusters,
            vcpus: args.max_vcpus,
            ..OrganizationLimits::default()
        },
    }
}

fn subject(text: &str) -> Result<Subject, String> {
    match text.split_once(':') {
        Some(("user", name)) if !name.is_empty() => Ok(Subject::User(name.to_owned())),
        Some(("group", name)) if !name.is_empty() => Ok(Subject::Group(name.to_owned())),
        _ => Err("write user:NAME or group:NAME".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_keep_colons_of_the_identity_provider() {
        assert_eq!(
            subject("group:oidc:admins"),
            Ok(Subject::Group("oidc:admins".into()))
        );
        for bad in ["anna", "user:", "robot:x"] {
            assert!(subject(bad).is_err(), "{bad}");
        }
    }
}
