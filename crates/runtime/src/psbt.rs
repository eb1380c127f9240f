//! `session export-psbt` and `session import-psbt`: PSBTs from and to files.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use beacon_cohort::psbt::{MAX_BYTES, parse, to_base64};
use clap::Args;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::cli::{Failure, Global, print_line};

/// How often the agent is asked whether the coordinator has answered, and for how long.
const PULSE: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(30);

/// Options of `session export-psbt`.
#[derive(Args, Clone, Debug)]
pub struct ExportArgs {
    /// The session's id
    session_id: String,
    /// File to write; standard output without it
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Write bytes instead of base64
    #[arg(long, requires = "out")]
    binary: bool,
}

/// Writes a session's PSBT. Of a participant `from_coordinator` asks its coordinator for what others have given, and waits for
/// the answer.
pub async fn export(
    global: &Global,
    agent: &str,
    args: ExportArgs,
    from_coordinator: bool,
) -> Result<(), Failure> {
    let params = json!({ "session_id": args.session_id });
    let answer = if from_coordinator {
        global
            .ask(agent, "session.ask_psbt", params.clone())
            .await?;
        answered(global, agent, params).await?
    } else {
        global.ask(agent, "session.psbt", params).await?
    };
    let text = answer["psbt"].as_str().unwrap_or_default();
    match &args.out {
        None if global.json => global.print(&answer)?,
        None => print_line(text)?,
        Some(path) => {
            write(path, text, args.binary)?;
            let mut said = answer.clone();
            said["psbt"] = json!(path);
            global.print(&said)?;
        }
    }
    if !global.json
        && let Some(next) = answer["next"].as_str()
    {
        eprintln!("{agent}: {next}");
    }
    Ok(())
}

/// Waits until the coordinator has answered.
async fn answered(global: &Global, agent: &str, params: Value) -> Result<Value, Failure> {
    let began = Instant::now();
    loop {
        let answer = global.ask(agent, "session.psbt", params.clone()).await?;
        match answer["asked"].as_str() {
            Some("came") => return Ok(answer),
            Some("waits") | None if began.elapsed() < PATIENCE => sleep(PULSE).await,
            Some("waits") | None => {
                let patience = PATIENCE.as_secs();
                return Err(anyhow!(
                    "got no PSBT from the coordinator in {patience} s: it may be offline, or of an older version; try again, or without --from-coordinator"
                )
                .into());
            }
            Some(reason) => return Err(anyhow!("{reason}").into()),
        }
    }
}

fn write(path: &Path, text: &str, binary: bool) -> Result<(), Failure> {
    let content = if binary {
        parse(text.as_bytes())?.serialize()
    } else {
        format!("{text}\n").into_bytes()
    };
    let wrote = std::fs::File::create(path).and_then(|mut file| file.write_all(&content));
    Ok(wrote.with_context(|| format!("cannot write {}", path.display()))?)
}

/// Takes from a PSBT what a signer outside has added: bytes or base64; standard input for `-`.
pub async fn import(global: &Global, agent: &str, path: &Path) -> Result<(), Failure> {
    let psbt = read(path).map_err(Failure::usage)?;
    let params = json!({ "psbt": psbt });
    global.call(agent, "session.import_psbt", params).await
}

/// The PSBT of a file, as base64.
fn read(path: &Path) -> anyhow::Result<String> {
    let mut data = Vec::new();
    // One byte more than the longest that is taken, so that a longer one is told as such.
    let most = 2 * MAX_BYTES as u64 + 1;
    let read = if path == Path::new("-") {
        std::io::stdin().take(most).read_to_end(&mut data)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(most).read_to_end(&mut data))
    };
    read.with_context(|| format!("cannot read {}", path.display()))?;
    let psbt = parse(&data).with_context(|| path.display().to_string())?;
    Ok(to_base64(&psbt)?)
}
