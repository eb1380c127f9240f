//! A whole cohort as a byte code: both machines with real MuSig2, whose mail is delivered, repeated, lost, redirected and
//! altered as the bytes say, with restarts, reorganisations and a chain source that lies.

use std::collections::{BTreeMap, BTreeSet};

use beacon_cohort::coordinator;
use beacon_cohort::ids::{CohortId, PeerId};
use beacon_cohort::machine::{ChainFact, Input, Machine as _, OutputView, TransactionView};
use beacon_cohort::message::{MAX_TEXT, Message, TYPE_PREFIX};
use beacon_cohort::participant::{self, Event};
use beacon_signal::UpdateId;

use super::logs::survives;
use crate::Form;
use crate::common::{Mail, World};
use crate::mutate::mutate;

/// Instructions of one run.
const MAX_STEPS: usize = 160;
/// Mail that was delivered and may come again.
const MAX_OLD: usize = 64;

/// The first three bytes choose the cohort, each further one an instruction with its operand.
pub fn machines(data: &[u8]) {
    if let Some(run) = run(data) {
        run.check();
    }
}

fn run(data: &[u8]) -> Option<Run> {
    let [first, second, third, code @ ..] = data else {
        return None;
    };
    let members = 1 + usize::from(first % 3);
    let mut world = World::new(members, u64::from(*second));
    let cohort = world.advertise(|terms| {
        terms.empty_leaf_allowed = third & 1 == 1;
        terms.max_members += u64::from(third >> 1 & 1);
        terms.response_deadline_s = 1 + u64::from(third >> 2);
    });
    (0..members).for_each(|number| world.subscribe(number));
    if first & 0x80 == 0 {
        world.settle();
    }
    let mut run = Run {
        world,
        cohort,
        old: Vec::new(),
        deposits: 0,
        branches: 0,
        lost: BTreeSet::new(),
    };
    for step in code.chunks(2).take(MAX_STEPS) {
        run.step(step[0], step.get(1).copied().unwrap_or(0));
    }
    Some(run)
}

struct Run {
    world: World,
    cohort: CohortId,
    old: Vec<Mail>,
    deposits: u8,
    branches: u8,
    /// Public nonces of members whose state went back to before them.
    lost: BTreeSet<String>,
}

impl Run {
    fn step(&mut self, code: u8, operand: u8) {
        let cohort = self.cohort;
        let number = usize::from(operand) % self.world.peers.len();
        match code % 24 {
            0..=3 => {
                if let Some(mail) = self.take(operand) {
                    self.keep(mail.clone());
                    self.world.deliver(mail);
                }
            }
            4 => self.world.settle(),
            5 => {
                let again = self
                    .old
                    .get(usize::from(operand) % self.old.len().max(1))
                    .cloned();
                if let Some(mail) = again {
                    self.world.deliver(mail);
                }
            }
            6 => drop(self.take(operand)),
            7 => self.redirect(operand),
            8..=10 => self.alter(code, operand),
            11 => self.world.look_at_chain_from(number),
            12 => self.world.look_at_chain(),
            13 => self.world.chain.mine(),
            14 => self.world.pass(u64::from(operand)),
            15 if operand & 0x80 == 0x80 => self.go_back(number, operand),
            15 => self.world.restart(number),
            16 => self.world.coordinator.reload(),
            17 if self.world.cohort(cohort).beacon.is_some() && self.deposits < 8 => {
                self.deposits += 1;
                self.world.fund(cohort, 1_000 * u64::from(operand));
            }
            18 => self.user(number, operand),
            19 => {
                let _ = self
                    .world
                    .operator(coordinator::Command::StartRound { cohort });
            }
            20 if self.branches < 8 => {
                self.branches += 1;
                self.world
                    .chain
                    .reorganise(1 + u32::from(operand % 3), operand & 4 == 4);
            }
            21 => self.lie_to_member(number, operand),
            22 => self.lie_to_coordinator(operand),
            23 => self.report(number, operand),
            _ => {}
        }
    }

    /// An older copy of a member's state is restored. Whatever comes of it, no nonce of what is lost is made again.
    fn go_back(&mut self, number: usize, operand: u8) {
        let log = &self.world.peers[number].node.log;
        let lines = log.len() * usize::from(operand & 0x7f) / 0x7f;
        self.lost.extend(public_nonces(&log[lines..]));
        self.world.restore(number, lines);
    }

    fn take(&mut self, operand: u8) -> Option<Mail> {
        let waiting = self.world.mail.len();
        (waiting > 0).then(|| self.world.mail.remove(usize::from(operand) % waiting))
    }

    fn keep(&mut self, mail: Mail) {
        if self.old.len() < MAX_OLD {
            self.old.push(mail);
        }
    }

    /// Somebody else says the same, or the same is said to somebody else.
    fn redirect(&mut self, operand: u8) {
        let Some(Mail::Message { from, to, message }) = self.take(operand) else {
            return;
        };
        let other = self.world.peers[usize::from(operand >> 4) % self.world.peers.len()]
            .id
            .clone();
        let from_member = self.world.number_of(&from).is_some();
        let (from, to) = match (from_member, operand & 8) {
            (_, 0) => (PeerId::new("did:example:stranger"), to),
            (true, _) => (other, to),
            (false, _) => (from, other),
        };
        self.world.deliver(Mail::Message { from, to, message });
    }

    /// The sender says something else than it would.
    fn alter(&mut self, code: u8, operand: u8) {
        let Some(mail) = self.take(operand) else {
            return;
        };
        let Mail::Message { from, to, message } = &mail else {
            return;
        };
        let body = message.body().unwrap().to_string();
        let seed = u64::from(code) << 8 | u64::from(operand);
        let altered = mutate(body.as_bytes(), Form::Json, 65_536, seed);
        let uri = format!("{TYPE_PREFIX}{}", message.kind());
        let read = serde_json::from_slice(&altered)
            .ok()
            .and_then(|body| Message::parse(&uri, &body).ok());
        if let Some(message) = read {
            self.world.deliver(Mail::Message {
                from: from.clone(),
                to: to.clone(),
                message,
            });
        }
        // The honest one arrives late, perhaps.
        if operand & 1 == 0 {
            self.world.mail.push(mail);
        }
    }

    fn user(&mut self, number: usize, operand: u8) {
        let cohort = self.cohort;
        let did = self.world.peers[number].did.clone();
        let session = self.world.peers[number]
            .node
            .machine
            .state()
            .cohorts
            .get(&cohort)
            .and_then(|known| Some(known.session.as_ref()?.id));
        let command = match (operand >> 5, session) {
            (0, _) => participant::Command::Leave { cohort },
            (1, _) => participant::Command::Join {
                cohort,
                dids: vec![did, format!("did:example:{operand}")],
                accept_script_tree: true,
            },
            (2, Some(session)) => participant::Command::Approve { session },
            (3, Some(session)) => participant::Command::Decline {
                session,
                comment: "no".to_owned(),
            },
            (4, _) => participant::Command::FetchProofs {
                cohort,
                updates: vec![UpdateId([operand; 32])],
            },
            (5, _) => participant::Command::ConfirmRollback { cohort: None },
            _ => participant::Command::RequestUpdate {
                cohort,
                did,
                update: UpdateId([operand; 32]),
                version: Some(u64::from(operand)).filter(|version| version % 2 == 0),
            },
        };
        let _ = self.world.user(number, command);
    }

    fn lie_to_member(&mut self, number: usize, operand: u8) {
        let watches = self.world.peers[number].node.machine.watches();
        for fact in self.world.chain.answer(&watches) {
            let fact = lie(fact, operand);
            let _ = self.world.at_peer(number, Input::Chain(fact));
        }
    }

    fn lie_to_coordinator(&mut self, operand: u8) {
        let watches = self.world.coordinator.machine.watches();
        for fact in self.world.chain.answer(&watches) {
            let fact = lie(fact, operand);
            let _ = self.world.at_coordinator(Input::Chain(fact));
        }
    }

    fn report(&mut self, number: usize, operand: u8) {
        let codes = beacon_cohort::machine::Code::ALL;
        let code = codes[usize::from(operand) % codes.len()]
            .as_str()
            .to_owned();
        let member = self.world.peers[number].id.clone();
        let (cohort, comment) = (Some(self.cohort), "because".to_owned());
        if operand & 0x80 == 0 {
            let from = crate::common::coordinator_id();
            let input = Input::Problem {
                from,
                cohort,
                code,
                comment,
            };
            let _ = self.world.at_peer(number, input);
        } else {
            let input = Input::Problem {
                from: member,
                cohort,
                code,
                comment,
            };
            let _ = self.world.at_coordinator(input);
        }
    }

    fn check(&self) {
        self.world.assert_replay_equals_memory();
        survives(self.world.coordinator.machine.state());
        for rejection in &self.world.rejections {
            assert!(rejection.got.len() <= MAX_TEXT && rejection.expected.len() <= MAX_TEXT);
        }
        for cohort in self.world.coordinator.machine.state().cohorts.values() {
            assert!(cohort.abandoned.len() <= 32);
        }
        for peer in &self.world.peers {
            survives(peer.node.machine.state());
            check_nonces(&peer.node.log);
            let again = public_nonces(&peer.node.log);
            assert!(self.lost.is_disjoint(&again), "a nonce came to life again");
        }
    }
}

fn lie(fact: ChainFact, operand: u8) -> ChainFact {
    match fact {
        ChainFact::Funds { script, mut funds } => {
            for fund in &mut funds {
                fund.value = fund.value.wrapping_mul(u64::from(operand));
            }
            if operand & 1 == 1 {
                funds.pop();
            }
            ChainFact::Funds { script, funds }
        }
        ChainFact::Output { outpoint, .. } if operand & 1 == 1 => ChainFact::Output {
            outpoint,
            view: OutputView::Unseen,
        },
        ChainFact::Transaction { txid, tip, view } => ChainFact::Transaction {
            txid,
            tip: tip.wrapping_sub(u32::from(operand)),
            view: match operand % 3 {
                0 => TransactionView::Unknown,
                1 => TransactionView::Mempool,
                _ => view,
            },
        },
        other => other,
    }
}

fn public_nonces(log: &[String]) -> BTreeSet<String> {
    let mut nonces = BTreeSet::new();
    for line in log {
        if let Event::NonceCommitted { nonces: made, .. } = serde_json::from_str(line).unwrap() {
            nonces.extend(made.iter().map(ToString::to_string));
        }
    }
    nonces
}

/// One public nonce for each session of a member, never the same for two, and at most one partial signature.
fn check_nonces(log: &[String]) {
    let (mut made, mut signed) = (BTreeMap::new(), BTreeSet::new());
    let mut public = BTreeSet::new();
    for line in log {
        match serde_json::from_str(line).unwrap() {
            Event::NonceCommitted {
                session, nonces, ..
            } => {
                for nonce in &nonces {
                    assert!(
                        public.insert(nonce.to_string()),
                        "one nonce for two sessions"
                    );
                }
                assert!(
                    made.insert(session, nonces).is_none(),
                    "nonces twice for {session}"
                );
            }
            Event::PartialReleased { session, .. } => {
                assert!(
                    made.contains_key(&session),
                    "a partial signature without a nonce"
                );
                assert!(
                    signed.insert(session),
                    "two partial signatures for {session}"
                );
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seeds::seeds;

    /// A byte code that never gets to a signature would find nothing about signing.
    #[test]
    fn good_lives_end_in_signals() {
        for (name, code) in seeds("machines") {
            let run = run(&code).unwrap();
            run.check();
            let signals = &run.world.cohort(run.cohort).signals;
            if name.starts_with("good") {
                assert!(!signals.is_empty(), "{name}: {:?}", run.world.rejections);
            }
        }
    }
}
