//! The program of the function platform: one role per process.

fn main() -> anyhow::Result<()> {
    anyhow::bail!("no role is built yet")
}
