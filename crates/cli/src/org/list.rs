//! `farplane org list`

use anyhow::Result;
use farplane_types::Organization;

use crate::App;
use crate::{hub, objects};

/// Lists every organization.
pub(crate) async fn run(app: &App) -> Result<()> {
    let client = hub::connect(app).await?;
    let items = objects::list::<Organization>(&client, None).await?;
    app.out.list(
        items,
        "there is no organization; `farplane org create NAME` makes one",
    )
}
