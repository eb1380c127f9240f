//! `beacon-participant`: parses the command line, builds a configuration, runs. Everything else is in `beacon-runtime`.

mod args;

use std::process::ExitCode;

use args::{Args, Command, DidcommCommand, MessageArgs, ProofCommand};
use beacon_runtime::app::{self, Choice, Home};
use beacon_runtime::cli::{self, Failure, Global};
use beacon_runtime::control::{self, CallError};
use beacon_runtime::data_dir::control_socket_of;
use beacon_runtime::settings::Options;
use beacon_runtime::{by_hand, participant, proofs};
use serde_json::{Value, json};

const AGENT: &str = "beacon-participant";

#[tokio::main]
async fn main() -> ExitCode {
    match Args::parse() {
        Ok(args) => cli::exit(args.dispatch().await),
        // `--help` and `--version` end here too: clap prints them and knows the exit code.
        Err(error) => error.exit(),
    }
}

impl Args {
    async fn dispatch(self) -> Result<(), Failure> {
        let Self { global, command } = self;
        let (method, params) = match command {
            Command::Run { options, log_json } => {
                cli::init_logging(log_json);
                let path = global.data_dir(AGENT)?;
                let config = global.config(options, &path)?.to_run()?;
                let home = app::open(
                    global.open_data_dir(&path)?,
                    Choice::Configured(&config.endpoint),
                )?;
                let agent = participant::agent(&home)?;
                let machine = participant::machine(&config);
                return Ok(app::run(home, &config, agent, machine, global.json).await?);
            }
            Command::Did {
                options,
                change_endpoint,
            } => return did(&global, options, change_endpoint).await,
            Command::Resolve { did } => return by_hand::resolve(&did),
            Command::Proof(ProofCommand::Verify {
                did,
                proof,
                root,
                leaf,
            }) => {
                return proofs::verify(&global, &did, &proof, root.as_deref(), leaf.as_deref());
            }
            Command::Proof(ProofCommand::Export {
                cohort_id,
                did,
                txid,
                out,
            }) => {
                let params = json!({ "cohort_id": cohort_id, "did": did, "txid": txid });
                let answer = global.ask(AGENT, "proof.export", params).await?;
                return proofs::write(&answer["proof"], out.as_deref());
            }
            Command::Didcomm(command) => return didcomm(&global, command).await,
            Command::Events {
                from,
                until,
                matching,
            } => {
                return global
                    .events(AGENT, from, until.as_deref(), &matching)
                    .await;
            }
            Command::Subscribe {
                coordinator,
                network,
                label,
            } => (
                "subscribe",
                json!({ "coordinator": coordinator, "networks": network, "label": label }),
            ),
            Command::Unsubscribe { coordinator } => {
                ("unsubscribe", json!({ "coordinator": coordinator }))
            }
            Command::Cohorts => ("cohorts", Value::Null),
            Command::Join { cohort_id, did } => {
                ("join", json!({ "cohort_id": cohort_id, "dids": did }))
            }
            Command::Leave { cohort_id } => ("leave", json!({ "cohort_id": cohort_id })),
            Command::RequestUpdate {
                cohort_id,
                did,
                update_hash,
            } => (
                "request_update",
                json!({ "cohort_id": cohort_id, "did": did, "update_hash": update_hash }),
            ),
            Command::Sessions => ("sessions", Value::Null),
            Command::Approve { session_id } => ("approve", json!({ "session_id": session_id })),
            Command::Decline {
                session_id,
                comment,
            } => (
                "decline",
                json!({ "session_id": session_id, "comment": comment }),
            ),
            Command::Status => ("status", Value::Null),
        };
        global.call(AGENT, method, params).await
    }
}

/// The agent's home while it does not run, with the endpoint that it has, or the configured one the first time.
fn home(global: &Global, options: Options, change_endpoint: bool) -> Result<Home, Failure> {
    let path = global.data_dir(AGENT)?;
    let config = global.config(options, &path)?;
    let choice = Choice::of(&config.endpoint, change_endpoint);
    Ok(app::open(global.open_data_dir(&path)?, choice)?)
}

async fn did(global: &Global, options: Options, change_endpoint: bool) -> Result<(), Failure> {
    let socket = control_socket_of(&global.data_dir(AGENT)?)?;
    match control::call(&socket, "did", Value::Null).await {
        Ok(answer) if !change_endpoint => global.print(&answer),
        Ok(_) => Err(Failure::usage(anyhow::anyhow!(
            "the agent is running: stop it before its endpoint is changed"
        ))),
        Err(CallError::NotRunning { .. }) => {
            let mut home = home(global, options, change_endpoint)?;
            global.print(&json!({ "did": home.identities.get(0)?.did() }))
        }
        Err(error) => Err(error.into()),
    }
}

/// By hand, under this agent's first DID; asks the running agent, or opens its home.
async fn didcomm(global: &Global, command: DidcommCommand) -> Result<(), Failure> {
    match command {
        DidcommCommand::Pack { message } => {
            let packed = by_hand(global, "didcomm.pack", message.draft()?).await?;
            if global.json {
                return global.print(&packed);
            }
            println!("{}", packed["envelope"].as_str().unwrap_or_default());
            Ok(())
        }
        DidcommCommand::Unpack { file } => {
            let envelope = by_hand::envelope(file.as_deref())?;
            global.print(&by_hand(global, "didcomm.unpack", envelope).await?)
        }
        DidcommCommand::Send { message, wait } => {
            let packed = by_hand(global, "didcomm.pack", message.draft()?).await?;
            match by_hand::send(global, &packed, wait).await? {
                Some(answer) => global.print(&by_hand(global, "didcomm.unpack", answer).await?),
                None => Ok(()),
            }
        }
    }
}

async fn by_hand(global: &Global, method: &str, params: Value) -> Result<Value, Failure> {
    let socket = control_socket_of(&global.data_dir(AGENT)?)?;
    match control::call(&socket, method, params.clone()).await {
        Err(CallError::NotRunning { .. }) => {
            let mut home = home(global, Options::default(), false)?;
            Ok(by_hand::call(&mut home.identities, method, params)?)
        }
        answer => Ok(answer?),
    }
}

impl MessageArgs {
    fn draft(&self) -> Result<Value, Failure> {
        by_hand::draft(&self.to, &self.kind, &self.body)
    }
}
