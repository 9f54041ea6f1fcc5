use crate::config;
use crate::context::Context;
use anyhow::Result;
use forkd_app::FindingState;

/// Say what this host can do, and what to install for what it cannot
#[derive(Debug, clap::Args)]
#[command(after_help = "The exit code is 8 where this host cannot fork at all.\n\nExample:\n  forkd doctor")]
pub(crate) struct DoctorArgs {}

pub(crate) fn run(_args: &DoctorArgs, context: &Context<'_>) -> Result<()> {
    let settings = config::settings()?;
    let report = context.app(&settings).doctor()?;
    for finding in &report.findings {
        let mark = match finding.state {
            FindingState::Good => "✓",
            FindingState::Missing => "-",
            FindingState::Bad => "✗",
        };
        context.output.answer(&format!("{mark} {:<16} {}", finding.name, finding.found));
        if let Some(fix) = &finding.fix {
            context.output.answer(&format!("    fix: {fix}"));
        }
    }
    context.output.answer(if report.can_fork {
        "this host bakes and forks"
    } else {
        "this host cannot fork; packing, moving and verifying work"
    });
    context.output.exit_with(if report.can_fork { 0 } else { 8 });
    context.output.json(&report);
    Ok(())
}
