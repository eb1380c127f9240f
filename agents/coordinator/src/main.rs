//! `beacon-coordinator`: parses the command line, builds a configuration, runs. Everything else is in `beacon-runtime`.

mod args;

use std::process::ExitCode;
use std::time::Duration;

use args::{Args, CohortCommand, Command, EvidenceCommand, SessionCommand};
use beacon_runtime::cli::{self, Failure, Global};
use beacon_runtime::coordinator::{self, CoordinatorAgent};
use beacon_runtime::{evidence, fund, proofs, psbt};
use serde_json::{Map, Value, json};

const AGENT: &str = "beacon-coordinator";

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
        match command {
            Command::Run(args) => {
                let role = |_: &_, config: &_| Ok(coordinator::role(config));
                global.run::<CoordinatorAgent>(AGENT, args, role).await
            }
            Command::Did(args) => {
                global
                    .did::<CoordinatorAgent>(AGENT, args, coordinator::own_did)
                    .await
            }
            Command::Cohort(command) => cohort(&global, command).await,
            Command::Session(SessionCommand::Start { cohort_id }) => {
                global
                    .call(AGENT, "session.start", json!({ "cohort_id": cohort_id }))
                    .await
            }
            Command::Session(SessionCommand::ExportPsbt(args)) => {
                psbt::export(&global, AGENT, args, false).await
            }
            Command::Session(SessionCommand::List { cohort_id }) => {
                global
                    .call(AGENT, "session.list", json!({ "cohort_id": cohort_id }))
                    .await
            }
            Command::Evidence(EvidenceCommand::List { cohort_id }) => {
                global
                    .call(AGENT, "evidence.list", json!({ "cohort_id": cohort_id }))
                    .await
            }
            Command::Evidence(EvidenceCommand::Export {
                cohort_id,
                number,
                out,
            }) => {
                let params = json!({ "cohort_id": cohort_id, "number": number });
                let answer = global.ask(AGENT, "evidence.export", params).await?;
                proofs::write(&answer["evidence"], out.as_deref())
            }
            Command::Evidence(EvidenceCommand::Verify { file }) => {
                evidence::verify(global.json, &file)
            }
            Command::Subscribers => global.call(AGENT, "subscribers", Value::Null).await,
            Command::Status => global.call(AGENT, "status", Value::Null).await,
            Command::Keys(command) => {
                let role = |_: &_, config: &_| Ok(coordinator::role(config));
                global.keys::<CoordinatorAgent>(AGENT, command, role).await
            }
            Command::Events(args) => global.events(AGENT, args).await,
        }
    }
}

/// Carries out `cohort …`.
async fn cohort(global: &Global, command: CohortCommand) -> Result<(), Failure> {
    let (method, params) = match command {
        CohortCommand::Fund {
            cohort_id,
            amount,
            wait,
        } => {
            let wait = Duration::from_secs(wait);
            let request = fund::Request {
                cohort_id,
                amount,
                wait,
            };
            return fund::run(global, AGENT, request).await;
        }
        CohortCommand::Advertise {
            min_members,
            max_members,
            flow,
            network,
            expires_in,
            invite,
            close_to,
            recovery_key,
            recovery_blocks,
            fallback,
            terms,
        } => {
            let mut members = Map::new();
            for (name, value) in terms {
                // Numbers and booleans as JSON has them; everything else is text.
                let value = serde_json::from_str(&value).unwrap_or(Value::String(value));
                members.insert(name, value);
            }
            let mut set = |name: &str, value: Option<Value>| {
                if let Some(value) = value {
                    members.insert(name.to_owned(), value);
                }
            };
            set("min_members", Some(min_members.into()));
            set("max_members", max_members.map(Value::from));
            set("flow", flow.map(Value::from));
            set("btc_network", network.map(Value::from));
            let recovery = recovery_key.map(|key| json!({ "key": key, "blocks": recovery_blocks }));
            let fallback = fallback.map(|threshold| json!({ "threshold": threshold }));
            let leaves = [("recovery", recovery), ("fallback", fallback)];
            let leaves = leaves.into_iter();
            let leaves: Map<_, _> = leaves
                .filter_map(|(name, leaf)| Some((name.to_owned(), leaf?)))
                .collect();
            set(
                "script_tree",
                (!leaves.is_empty()).then_some(Value::Object(leaves)),
            );
            (
                "cohort.advertise",
                json!({ "terms": members, "expires_in_s": expires_in, "invited": invite, "close_to": close_to }),
            )
        }
        CohortCommand::List => ("cohort.list", Value::Null),
        CohortCommand::Show { cohort_id } => ("cohort.show", json!({ "cohort_id": cohort_id })),
        CohortCommand::CloseAdmission { cohort_id } => {
            ("cohort.close_admission", json!({ "cohort_id": cohort_id }))
        }
        CohortCommand::Close {
            cohort_id,
            fee_rate,
        } => (
            "cohort.close",
            json!({ "cohort_id": cohort_id, "fee_rate": fee_rate }),
        ),
        CohortCommand::Replace {
            cohort_id,
            fee_rate,
        } => (
            "cohort.replace",
            json!({ "cohort_id": cohort_id, "fee_rate": fee_rate }),
        ),
        CohortCommand::Dissolve {
            cohort_id,
            without,
            no_successor,
        } => (
            "cohort.dissolve",
            json!({ "cohort_id": cohort_id, "without": without, "successor": !no_successor }),
        ),
    };
    global.call(AGENT, method, params).await
}
