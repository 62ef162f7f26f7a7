//! (being written)
#[derive(clap::Args)]
pub struct ChatOptions {}
pub fn run(_options: &ChatOptions) -> Result<(), String> {
    Ok(())
}
