//! Makes packages of code.

use anyhow::Result;
use farplane_functions_types::package::{Archive, build_status};
use farplane_functions_types::{
    Function, FunctionSpec, FunctionVersion, ObjectReference, Package, PackageSpec,
};
use kube::{Client, ResourceExt as _};
use sha2::{Digest as _, Sha256};

use crate::objects;

/// What a package is made of.
#[derive(Clone, Debug)]
pub(crate) enum Code {
    /// Runs as it is.
    Ready(Archive),
    /// Is built first, by this command or, when empty, the environment's.
    Source { archive: Archive, command: String },
}

/// The spec of a package.
pub(crate) fn spec(namespace: &str, environment: &str, code: Code) -> PackageSpec {
    let mut spec = PackageSpec {
        environment: ObjectReference {
            namespace: namespace.to_owned(),
            name: environment.to_owned(),
        },
        ..PackageSpec::default()
    };
    match code {
        Code::Ready(archive) => spec.deployment = archive,
        Code::Source { archive, command } => {
            spec.source = archive;
            spec.build_command = command;
        }
    }
    spec
}

/// Name of a function's package: that of the function and a digest of what it is made of, so
/// that a command that was interrupted finds what it made.
pub(crate) fn name(function: &str, spec: &PackageSpec) -> String {
    let parts = [
        &spec.environment.name,
        &spec.source.checksum.sum,
        &spec.deployment.checksum.sum,
        &spec.build_command,
    ];
    let digest = hex::encode(Sha256::digest(parts.map(String::as_str).join("\n")));
    let mut stem = function.to_owned();
    stem.truncate(54);
    format!("{}-{}", stem.trim_end_matches('-'), &digest[..8])
}

/// The package of a function; one that was made of the same is taken.
pub(crate) async fn ensure(
    client: &Client,
    namespace: &str,
    function: &str,
    spec: PackageSpec,
) -> Result<Package> {
    let name = name(function, &spec);
    if let Some(found) = objects::find::<Package>(client, Some(namespace), &name).await? {
        if !failed(&found) {
            return Ok(found);
        }
        // The same source is built again: whatever was missing may be there now.
        objects::delete::<Package>(client, Some(namespace), &name).await?;
    }
    objects::create(client, Some(namespace), &Package::new(&name, spec)).await
}

/// Deletes a package whose build failed, unless somebody uses it.
pub(crate) async fn discard(client: &Client, namespace: &str, name: &str) -> Result<()> {
    let found = objects::find::<Package>(client, Some(namespace), name).await?;
    match found.as_ref().is_some_and(failed) {
        true => release(client, namespace, name, "").await,
        false => Ok(()),
    }
}

fn failed(package: &Package) -> bool {
    let status = package.status.as_ref();
    status.is_some_and(|status| status.build_status == build_status::FAILED)
}

/// Deletes a package unless other functions, or published versions, use it.
pub(crate) async fn release(
    client: &Client,
    namespace: &str,
    name: &str,
    function: &str,
) -> Result<()> {
    let place = Some(namespace);
    let others = objects::list::<Function>(client, place).await?;
    let versions = objects::list::<FunctionVersion>(client, place).await?;
    let is_it = |spec: &FunctionSpec| spec.package.package_ref.name == name;
    let used = others
        .iter()
        .any(|other| other.name_any() != function && is_it(&other.spec))
        || versions.iter().any(|version| is_it(&version.spec.snapshot));
    if name.is_empty()
        || used
        || objects::find::<Package>(client, Some(namespace), name)
            .await?
            .is_none()
    {
        return Ok(());
    }
    objects::delete::<Package>(client, Some(namespace), name).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::functions::storage::literal;

    #[test]
    fn the_same_code_has_the_same_name_and_other_code_another() {
        let of = |text: &[u8]| {
            name(
                "hello",
                &spec("default", "python", Code::Ready(literal(text))),
            )
        };
        assert_eq!(of(b"a"), of(b"a"));
        assert_ne!(of(b"a"), of(b"b"));
        let source = Code::Source {
            archive: literal(b"a"),
            command: String::new(),
        };
        assert_ne!(of(b"a"), name("hello", &spec("default", "python", source)));
        assert!(name(&"x".repeat(63), &spec("d", "e", Code::Ready(literal(b"")))).len() <= 63);
    }
}
