//! URLs that packages name, read from the API server.

use std::sync::Arc;

use farplane_functions_types::Package;
use futures::FutureExt as _;
use kube::api::ListParams;
use kube::{Api, Client};

use crate::prune::LiveUrls;

/// Packages that are read at once.
const PAGE: u32 = 500;

/// Reads them from the packages of every namespace.
pub fn of_packages(client: Client) -> LiveUrls {
    Arc::new(move || {
        let client = client.clone();
        async move { list(client).await.map_err(|error| error.to_string()) }.boxed()
    })
}

async fn list(client: Client) -> Result<Vec<String>, kube::Error> {
    let api: Api<Package> = Api::all(client);
    let mut urls = Vec::new();
    let mut parameters = ListParams::default().limit(PAGE);
    loop {
        let page = api.list(&parameters).await?;
        for package in page.items {
            let archives = [package.spec.source.url, package.spec.deployment.url];
            urls.extend(archives.into_iter().filter(|url| !url.is_empty()));
        }
        match page.metadata.continue_ {
            Some(token) if !token.is_empty() => {
                parameters = ListParams::default().limit(PAGE).continue_token(&token);
            }
            _ => return Ok(urls),
        }
    }
}
