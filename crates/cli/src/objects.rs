//! Objects at the hub and of clusters: get, list, create, delete, with words for what goes wrong.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use anyhow::Result;
use farplane_types::names::organization_namespace;
use farplane_types::{Endpoint, Host, JoinToken, KubernetesCluster, Organization};
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::{Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::failure::{self, About, Failure, Scope};

/// Field manager of what people do by this command.
pub(crate) const FIELD_MANAGER: &str = "farplane-cli";

/// How long the namespace of a new organization may take to appear.
const NAMESPACE_PATIENCE: Duration = Duration::from_secs(30);

/// A kind that commands work on.
pub(crate) trait Kind:
    Resource<DynamicType = ()> + Serialize + DeserializeOwned + Clone + Debug + Send + Sync + 'static
{
    /// Word for one of them; an `s` makes several.
    const NOUN: &'static str;
    /// Its command.
    const COMMAND: &'static str;
    /// Access to those of one place, an organization or a namespace, or of all.
    fn api(client: Client, place: Option<&str>) -> Api<Self>;
    /// What the place is.
    fn scope(place: Option<&str>) -> Scope<'_>;
}

macro_rules! kind_of_organizations {
    ($kind:ty, $noun:literal, $command:literal) => {
        impl Kind for $kind {
            const NOUN: &'static str = $noun;
            const COMMAND: &'static str = $command;
            fn api(client: Client, organization: Option<&str>) -> Api<Self> {
                match organization {
                    Some(name) => Api::namespaced(client, &organization_namespace(name)),
                    None => Api::all(client),
                }
            }
            fn scope(place: Option<&str>) -> Scope<'_> {
                place.map_or(Scope::Hub, Scope::Organization)
            }
        }
    };
}

kind_of_organizations!(Endpoint, "endpoint", "endpoint");
kind_of_organizations!(Host, "host", "host");
kind_of_organizations!(JoinToken, "join token", "host");
kind_of_organizations!(KubernetesCluster, "cluster", "cluster");

impl Kind for Organization {
    const NOUN: &'static str = "organization";
    const COMMAND: &'static str = "org";
    fn api(client: Client, _: Option<&str>) -> Api<Self> {
        Api::all(client)
    }
    fn scope(_: Option<&str>) -> Scope<'_> {
        Scope::Hub
    }
}

/// What a request on `K` is about.
pub(crate) fn about<'a, K: Kind>(
    verb: &'a str,
    place: Option<&'a str>,
    name: &'a str,
) -> About<'a> {
    About {
        noun: K::NOUN,
        command: K::COMMAND,
        name,
        scope: K::scope(place),
        verb,
    }
}

/// The object, which must exist.
pub(crate) async fn get<K: Kind>(client: &Client, place: Option<&str>, name: &str) -> Result<K> {
    match find(client, place, name).await? {
        Some(object) => Ok(object),
        None => {
            if let Scope::Organization(organization) = K::scope(place) {
                must_exist(client, organization).await?;
            }
            Err(about::<K>("read", place, name).not_found().into())
        }
    }
}

/// The object, if it exists.
pub(crate) async fn find<K: Kind>(
    client: &Client,
    place: Option<&str>,
    name: &str,
) -> Result<Option<K>> {
    let about = about::<K>("read", place, name);
    match K::api(client.clone(), place).get(name).await {
        Ok(object) => Ok(Some(object)),
        Err(kube::Error::Api(status))
            if status.is_not_found() && !failure::is_unknown_kind(&status) =>
        {
            Ok(None)
        }
        Err(error) => Err(about.explain(error)),
    }
}

/// Every object of a place, or of all.
pub(crate) async fn list<K: Kind>(client: &Client, place: Option<&str>) -> Result<Vec<K>> {
    if let Scope::Organization(organization) = K::scope(place) {
        must_exist(client, organization).await?;
    }
    let found = K::api(client.clone(), place)
        .list(&ListParams::default())
        .await;
    match found {
        Ok(list) => Ok(list.items),
        Err(error) => Err(about::<K>("list", place, "").explain(error)),
    }
}

/// Makes an object. A name that exists is refused. An organization that was made a
/// moment ago gets the time to make its namespace.
pub(crate) async fn create<K: Kind>(client: &Client, place: Option<&str>, object: &K) -> Result<K> {
    let name = object.name_any();
    let about = about::<K>("create", place, &name);
    let api = K::api(client.clone(), place);
    let parameters = PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    };
    let end = Instant::now() + NAMESPACE_PATIENCE;
    loop {
        let error = match api.create(&parameters, object).await {
            Ok(made) => return Ok(made),
            Err(error) => error,
        };
        let (Scope::Organization(organization), true) = (K::scope(place), lacks_namespace(&error))
        else {
            return Err(about.explain(error));
        };
        must_exist(client, organization).await?;
        if Instant::now() > end {
            return Err(Failure::NotReady(format!(
                "the namespace of organization {organization} is not there yet: do the hub's controllers run? `farplane status` tells"
            ))
            .into());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Asks the hub to delete an object, which must exist.
pub(crate) async fn delete<K: Kind>(
    client: &Client,
    place: Option<&str>,
    name: &str,
) -> Result<()> {
    let about = about::<K>("delete", place, name);
    let api = K::api(client.clone(), place);
    match api.delete(name, &DeleteParams::default()).await {
        Ok(_) => Ok(()),
        Err(error) => Err(about.explain(error)),
    }
}

/// Fails with words when there is no such organization. Members of one may not look,
/// and are believed.
async fn must_exist(client: &Client, organization: &str) -> Result<()> {
    let api = Organization::api(client.clone(), None);
    match api.get(organization).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_forbidden() => Ok(()),
        Err(error) => Err(about::<Organization>("read", None, organization).explain(error)),
    }
}

fn lacks_namespace(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else {
        return false;
    };
    status.is_not_found()
        && status
            .details
            .as_ref()
            .is_some_and(|details| details.kind == "namespaces")
}
