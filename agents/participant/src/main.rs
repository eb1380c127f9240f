//! `beacon-participant`: parses the command line, builds a configuration, runs. Everything else is in `beacon-runtime`.

mod args;

use std::process::ExitCode;

use args::{
    Args, Command, DidcommCommand, EvidenceCommand, JoinArgs, MessageArgs, ProofCommand,
    ResolverCommand, RollbackCommand, SessionCommand,
};
use beacon_runtime::cli::{self, Failure, Global};
use beacon_runtime::dids::commands as dids;
use beacon_runtime::dids::updates::request_update;
use beacon_runtime::participant::{self, ParticipantAgent};
use beacon_runtime::script_tree::{fallback, recovery};
use beacon_runtime::{by_hand, evidence, proofs, psbt, resolve};
use serde_json::{Value, json};

const AGENT: &str = "beacon-participant";

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = match cli::parse::<Args>(AGENT) {
        Ok(args) => args.dispatch().await,
        Err(failure) => Err(failure),
    };
    cli::exit(outcome)
}

impl Args {
    async fn dispatch(self) -> Result<(), Failure> {
        let Self { global, command } = self;
        let (method, params) = match command {
            Command::Run(args) => {
                return global
                    .run::<ParticipantAgent>(AGENT, args, participant::role)
                    .await;
            }
            Command::Did {
                command: Some(command),
                ..
            } => return dids::run(&global, AGENT, *command).await,
            Command::Did {
                args,
                command: None,
            } => {
                return global
                    .did::<ParticipantAgent>(AGENT, args, participant::own_did)
                    .await;
            }
            Command::Resolve(args) => return resolve::command::run(&global, AGENT, args).await,
            Command::Resolver(ResolverCommand::Serve(args)) => {
                return resolve::server::serve(&global, AGENT, args).await;
            }
            Command::Proof(command) => return proof(&global, command).await,
            Command::Rollback(command) => rollback(command),
            Command::Sidecar(command) => return dids::sidecar(&global, AGENT, command).await,
            Command::Evidence(EvidenceCommand::Verify { file }) => {
                return evidence::verify(global.json, &file);
            }
            Command::Recovery(command) => return recovery(&global, AGENT, command).await,
            Command::Fallback(command) => return fallback(&global, AGENT, command).await,
            Command::Didcomm(command) => return didcomm(&global, command).await,
            Command::Keys(command) => {
                return global
                    .keys::<ParticipantAgent>(AGENT, command, participant::role)
                    .await;
            }
            Command::Events(args) => return global.events(AGENT, args).await,
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
            Command::Join(args) => return join(&global, args).await,
            Command::Signer { cohort, by } => {
                ("signer", cohort.with(json!({ "outside": by == "outside" })))
            }
            Command::Session(command) => return session(&global, command).await,
            Command::Leave { cohort } => ("leave", cohort.with(json!({}))),
            Command::RequestUpdate {
                cohort,
                did: Some(did),
                patch: Some(patch),
                chain,
                ..
            } => {
                let cohort = cohort.with(json!({}));
                return request_update(&global, AGENT, cohort, &did, &patch, &chain).await;
            }
            Command::RequestUpdate {
                cohort,
                did,
                update_hash,
                version_id,
                ..
            } => (
                "request_update",
                cohort
                    .with(json!({ "did": did, "update_hash": update_hash, "version": version_id })),
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

fn rollback(command: RollbackCommand) -> (&'static str, Value) {
    match command {
        RollbackCommand::Show => ("rollback.show", Value::Null),
        RollbackCommand::Confirm {
            cohort_id,
            coordinator,
        } => (
            "rollback.confirm",
            json!({ "cohort_id": cohort_id, "coordinator": coordinator }),
        ),
    }
}

async fn join(global: &Global, args: JoinArgs) -> Result<(), Failure> {
    if args.outside_signer {
        // Before anything can be signed.
        let params = args.cohort.clone().with(json!({ "outside": true }));
        global.ask(AGENT, "signer", params).await?;
    }
    let params = json!({ "dids": args.did, "accept_script_tree": args.accept_script_tree });
    global.call(AGENT, "join", args.cohort.with(params)).await
}

async fn session(global: &Global, command: SessionCommand) -> Result<(), Failure> {
    match command {
        SessionCommand::ExportPsbt {
            args,
            from_coordinator,
        } => psbt::export(global, AGENT, args, from_coordinator).await,
        SessionCommand::ImportPsbt { file } => psbt::import(global, AGENT, &file).await,
    }
}

async fn proof(global: &Global, command: ProofCommand) -> Result<(), Failure> {
    match command {
        ProofCommand::Verify {
            did,
            proof,
            root,
            leaf,
        } => proofs::verify(global, &did, &proof, root.as_deref(), leaf.as_deref()),
        ProofCommand::Export {
            cohort,
            did,
            txid,
            out,
        } => {
            let params = cohort.with(json!({ "did": did, "txid": txid }));
            let answer = global.ask(AGENT, "proof.export", params).await?;
            proofs::write(&answer["proof"], out.as_deref())
        }
        ProofCommand::Fetch {
            cohort,
            update_hash,
        } => {
            let params = cohort.with(json!({ "update_hashes": update_hash }));
            global.call(AGENT, "proof.fetch", params).await
        }
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
            cli::print_line(packed["envelope"].as_str().unwrap_or_default())
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
    let offline = |identities: &mut _, params| by_hand::call(identities, method, params);
    global.ask_or_open(AGENT, method, params, offline).await
}

impl MessageArgs {
    fn draft(&self) -> Result<Value, Failure> {
        by_hand::draft(&self.to, &self.kind, &self.body)
    }
}
