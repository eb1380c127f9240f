//! The people: an operator who opens cohorts, pays deposits and restarts what stopped, and members who want updates
//! announced. They look at what there is and do what is missing, so a command that a crash swallowed is given again.

use std::collections::{BTreeMap, BTreeSet};

use beacon_cohort::coordinator::{self, Phase, Stage};
use beacon_cohort::ids::CohortId;
use beacon_cohort::machine::{Code, Rejection};
use beacon_cohort::message::Subscribe;
use beacon_cohort::participant::{self, Membership, Progress, Standing};
use beacon_cohort::terms::{AgreedTerms, BtcNetwork, Flow, Terms};
use beacon_signal::{Index, UpdateId};
use uuid::Builder;

use super::Simulation;
use super::world::{COORDINATOR, NodeId, peer};

/// Milliseconds between two looks.
pub(super) const LOOK_MS: u64 = 500;
/// What the operator pays into each beacon, sat.
const DEPOSIT_SAT: u64 = 90_000;
/// Milliseconds after which the operator asks again for a round that stopped.
const PATIENCE_MS: u64 = 3_000;
/// Milliseconds after which a user whose member's disk went back does something about what is left to do.
const RECOVERY_MS: u64 = 300_000;
/// Rounds that may stop before the operator gives up.
const MAX_STOPPED: u32 = 100;
/// Confirmations that bury a signal. Reorganisations stay below.
pub(super) const CONFIRMATIONS: u32 = 3;

/// An update that a member wants announced.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) member: NodeId,
    pub(super) cohort: CohortId,
    pub(super) did: String,
    pub(super) update: UpdateId,
    /// The version of the document to which it leads: each update of this run has its own.
    version: u64,
    /// When the member says so, in milliseconds.
    at: u64,
    /// Whether the agent has taken it: from then on it must not get lost.
    taken: bool,
}

#[derive(Debug, Default)]
pub(super) struct Users {
    pub(super) cohorts: Vec<CohortId>,
    pub(super) wanted: Vec<Wanted>,
    pub(super) stopped: u32,
    /// Cohorts that ended.
    pub(super) over: Vec<CohortId>,
    funded: BTreeSet<CohortId>,
    declines_left: u32,
    stopped_since: BTreeMap<CohortId, u64>,
    /// When a member whose disk went back has asked for its proofs, or saw that it signs nothing.
    recovering: BTreeMap<(NodeId, CohortId), u64>,
}

/// The DIDs of a member.
pub(super) fn dids(member: NodeId, count: usize) -> Vec<String> {
    (0..count)
        .map(|number| format!("did:example:controller-{member}-{number}"))
        .collect()
}

impl Users {
    pub(super) fn new(declines: u32) -> Self {
        Self {
            declines_left: declines,
            ..Self::default()
        }
    }
}

impl Wanted {
    /// Whether the member's agent still knows of it.
    fn is_known(&self, cohort: &Membership) -> bool {
        let index = Index::of_did(&self.did);
        let update = Some(self.update);
        let leaf = cohort.leaves.get(&index);
        cohort.queued.get(&index).copied() == update
            || leaf.is_some_and(|leaf| leaf.update == update)
            || cohort.candidates.iter().any(|candidate| {
                let proof = candidate.proofs.get(&index);
                proof.is_some_and(|proof| proof.update_id == update)
            })
    }

    /// Whether the member has seen it announced in a block.
    pub(super) fn is_announced(&self, cohort: &Membership) -> bool {
        let index = Index::of_did(&self.did);
        cohort.candidates.iter().any(|candidate| {
            let standing = candidate.standing;
            matches!(
                standing,
                Standing::Confirmed { .. } | Standing::Buried { .. }
            ) && candidate
                .proofs
                .get(&index)
                .is_some_and(|proof| proof.update_id == Some(self.update))
        })
    }
}

impl Simulation {
    /// Everybody looks at what there is to do.
    pub(super) fn look(&mut self) -> Result<(), String> {
        self.look_at_cohorts()?;
        for member in 1..=self.members.len() {
            self.look_at_coordinator(member)?;
            self.look_at_sessions(member)?;
            self.look_at_recovery(member)?;
        }
        self.look_at_updates()
    }

    /// A new wave of updates: some DIDs of each cohort, at least one.
    pub(super) fn want_updates(&mut self) {
        for cohort in self.users.cohorts.clone() {
            let count = self.settings.dids_per_member;
            let cohorts = &self.coordinator.machine().state().cohorts;
            let members = cohorts.get(&cohort).map(|cohort| &cohort.members);
            let there = (1..).zip(&self.members).filter(|(member, node)| {
                let joined = members.is_some_and(|all| all.contains_key(&peer(*member)));
                joined && !node.is_gone()
            });
            let all: Vec<(NodeId, String)> = there
                .flat_map(|(member, _)| {
                    dids(member, count)
                        .into_iter()
                        .map(move |did| (member, did))
                })
                .collect();
            let sure = self.world.dice.below(all.len() as u64);
            for (number, (member, did)) in (0..).zip(all) {
                if number == sure || self.world.dice.hits(500) {
                    let newest = self.users.wanted.iter().map(|wanted| wanted.version);
                    let wanted = Wanted {
                        member,
                        cohort,
                        did,
                        update: UpdateId(self.world.dice.bytes()),
                        version: newest.max().unwrap_or(1) + 1,
                        at: self.world.clock + self.world.dice.below(4_000),
                        taken: false,
                    };
                    self.users.wanted.push(wanted);
                }
            }
        }
    }

    /// The cohort as a member sees it.
    pub(super) fn membership(&self, member: NodeId, cohort: CohortId) -> Option<&Membership> {
        let node = self.members.get(member.checked_sub(1)?)?;
        node.machine().state().cohorts.get(&cohort)
    }

    fn look_at_cohorts(&mut self) -> Result<(), String> {
        while self.users.cohorts.len() < self.settings.cohorts {
            let id = Builder::from_random_bytes(self.world.dice.bytes()).into_uuid();
            self.users.cohorts.push(CohortId(id));
        }
        for id in self.users.cohorts.clone() {
            if !self.coordinator.is_up() {
                return Ok(());
            }
            let Some(cohort) = self.coordinator.machine().state().cohorts.get(&id) else {
                let command = coordinator::Command::Advertise {
                    cohort: id,
                    terms: self.terms()?,
                    invited: BTreeSet::new(),
                };
                self.operate(command)?;
                continue;
            };
            if matches!(cohort.phase, Phase::Failed(_) | Phase::Dissolved(_)) {
                let next = cohort.successor;
                if self.settings.operator_asks_again || next.is_some() {
                    self.go_on_in(id, next);
                }
                continue;
            }
            if let (Phase::Acknowledged, Some(beacon)) = (&cohort.phase, &cohort.beacon)
                && self.users.funded.insert(id)
            {
                self.world.chain.deposit(beacon.script(), DEPOSIT_SAT);
            }
            if let Stage::Stopped { reason } = &cohort.round.stage
                && self.settings.operator_asks_again
            {
                let reason = reason.clone();
                self.ask_again(id, &reason)?;
            } else {
                self.users.stopped_since.remove(&id);
            }
        }
        Ok(())
    }

    /// A cohort is over: everybody goes on in the one that follows it, or in a new one where none does. What was not
    /// announced is wanted there.
    fn go_on_in(&mut self, old: CohortId, next: Option<CohortId>) {
        let next = next.unwrap_or_else(|| {
            CohortId(Builder::from_random_bytes(self.world.dice.bytes()).into_uuid())
        });
        self.world
            .note(format_args!("cohort {old} is over, {next} follows"));
        for id in &mut self.users.cohorts {
            if *id == old {
                *id = next;
            }
        }
        let mut wanted = std::mem::take(&mut self.users.wanted);
        // Who was left behind announces nothing there.
        let cohorts = &self.coordinator.machine().state().cohorts;
        let left = |member: NodeId| {
            let next = cohorts.get(&next);
            next.is_some_and(|next| !next.invited.contains(&peer(member)))
        };
        let announced = |wanted: &Wanted| {
            let membership = self.membership(wanted.member, old);
            membership.is_some_and(|cohort| wanted.is_announced(cohort))
        };
        wanted.retain(|wanted| wanted.cohort != old || announced(wanted) || !left(wanted.member));
        for wanted in &mut wanted {
            if wanted.cohort == old && !announced(wanted) {
                (wanted.cohort, wanted.taken) = (next, false);
            }
        }
        self.users.wanted = wanted;
        self.users.over.push(old);
    }

    fn ask_again(&mut self, cohort: CohortId, reason: &str) -> Result<(), String> {
        let now = self.world.clock;
        let since = *self.users.stopped_since.entry(cohort).or_insert(now);
        if now < since + PATIENCE_MS {
            return Ok(());
        }
        self.users.stopped_since.remove(&cohort);
        self.users.stopped += 1;
        if self.users.stopped > MAX_STOPPED {
            return Err(format!(
                "the operator gives up after {MAX_STOPPED} stopped rounds, the last with: {reason}"
            ));
        }
        self.operate(coordinator::Command::StartRound { cohort })
    }

    fn look_at_coordinator(&mut self, member: NodeId) -> Result<(), String> {
        let Some(node) = self.members.get_mut(member - 1) else {
            return Ok(());
        };
        let coordinator = peer(COORDINATOR);
        if !node.is_up()
            || node
                .machine()
                .state()
                .coordinators
                .contains_key(&coordinator)
        {
            return Ok(());
        }
        let command = participant::Command::Subscribe {
            coordinator,
            own: peer(member),
            identity: 0,
            filter: Subscribe::default(),
        };
        must(node.command(command, &mut self.world)?)
    }

    /// A member whose disk went back: its user gives the updates that only people remember, and after a while takes the risk
    /// that is left.
    fn look_at_recovery(&mut self, member: NodeId) -> Result<(), String> {
        let Some(node) = self.members.get_mut(member - 1) else {
            return Ok(());
        };
        if !node.is_up() || !node.is_restored() {
            return Ok(());
        }
        let mut commands = Vec::new();
        for cohort in node.machine().state().cohorts.values() {
            let now = self.world.clock;
            let since = self.users.recovering.entry((member, cohort.id));
            if !lacks_proofs(cohort) && cohort.quarantine.is_none() {
                self.users.recovering.remove(&(member, cohort.id));
            } else if *since.or_insert(now) + RECOVERY_MS <= now {
                self.users.recovering.insert((member, cohort.id), now);
                if lacks_proofs(cohort) {
                    let mut wanted: Vec<_> = self.users.wanted.iter().collect();
                    wanted.retain(|wanted| wanted.member == member);
                    commands.push(participant::Command::FetchProofs {
                        cohort: cohort.handle,
                        updates: wanted.iter().map(|wanted| wanted.update).collect(),
                    });
                } else {
                    commands.push(participant::Command::ConfirmRollback {
                        cohort: Some(cohort.handle),
                    });
                }
            }
        }
        for command in commands {
            must(node.command(command, &mut self.world)?)?;
        }
        Ok(())
    }

    /// The first member's user says no as often as the settings want, and then yes.
    fn look_at_sessions(&mut self, member: NodeId) -> Result<(), String> {
        let Some(node) = self.members.get_mut(member - 1) else {
            return Ok(());
        };
        let sessions = node.machine().state().cohorts.values();
        let asked = sessions
            .filter_map(|cohort| cohort.session.as_ref())
            .find(|open| !open.approved && open.progress == Progress::Requested)
            .map(|open| open.id);
        let Some(session) = asked else {
            return Ok(());
        };
        let command = if self.users.declines_left == 0 {
            participant::Command::Approve { session }
        } else {
            participant::Command::Decline {
                session,
                comment: "not today".to_owned(),
            }
        };
        let declines = matches!(command, participant::Command::Decline { .. });
        if let Some(answer) = node.command(command, &mut self.world)? {
            must(Some(answer))?;
            self.users.declines_left -= u32::from(declines);
        }
        Ok(())
    }

    fn look_at_updates(&mut self) -> Result<(), String> {
        let mut waiting = BTreeSet::new();
        for position in 0..self.users.wanted.len() {
            self.look_at_update(position)?;
            let Some(wanted) = self.users.wanted.get(position) else {
                continue;
            };
            let queued = self
                .membership(wanted.member, wanted.cohort)
                .is_some_and(|cohort| {
                    cohort.queued.get(&Index::of_did(&wanted.did)) == Some(&wanted.update)
                });
            if queued {
                waiting.insert(wanted.cohort);
            }
        }
        if self.settings.flow == Flow::Pull {
            self.pull(&waiting)?;
        }
        Ok(())
    }

    fn look_at_update(&mut self, position: usize) -> Result<(), String> {
        let Some(wanted) = self.users.wanted.get_mut(position) else {
            return Ok(());
        };
        let Some(node) = self.members.get_mut(wanted.member - 1) else {
            return Ok(());
        };
        if self.world.clock < wanted.at || !node.is_up() {
            return Ok(());
        }
        let cohort = node.machine().state().cohorts.get(&wanted.cohort);
        let known = cohort.is_some_and(|cohort| wanted.is_known(cohort));
        if !known && wanted.taken && !node.is_restored() {
            return Err(format!("an update was taken and then lost: {wanted:?}"));
        }
        wanted.taken = known;
        // Who may have forgotten something hears of it first, or would ask for what was signed already.
        let ready = cohort.is_some_and(|cohort| {
            cohort.stage == participant::Stage::Agreed
                && !(node.is_restored() && (cohort.inquiry.is_some() || lacks_proofs(cohort)))
        });
        if known || !ready {
            return Ok(());
        }
        let command = participant::Command::RequestUpdate {
            cohort: wanted.cohort,
            did: wanted.did.clone(),
            update: wanted.update,
            version: Some(wanted.version),
        };
        let restored = node.is_restored();
        let answer = node.command(command, &mut self.world)?;
        // Of which version an update was that was forgotten, nobody knows: until it is buried, there is no other one.
        let waits = |refused: &Rejection| restored && refused.code == Code::Conflict;
        match answer {
            Some(Err(refused)) if waits(&refused) => Ok(()),
            answer => must(answer),
        }
    }

    /// In the pull flow the operator starts a round once updates wait for one.
    fn pull(&mut self, waiting: &BTreeSet<CohortId>) -> Result<(), String> {
        for id in waiting {
            let ready = self.users.wanted.iter().all(|wanted| wanted.taken);
            let cohort = self.coordinator.machine().state().cohorts.get(id);
            let idle = cohort.is_some_and(|cohort| {
                cohort.phase == Phase::Acknowledged
                    && cohort.round.stage == Stage::Waiting
                    && !cohort.round.requested
            });
            if ready && idle && self.coordinator.is_up() {
                self.operate(coordinator::Command::StartRound { cohort: *id })?;
            }
        }
        Ok(())
    }

    fn operate(&mut self, command: coordinator::Command) -> Result<(), String> {
        must(self.coordinator.command(command, &mut self.world)?)
    }

    fn terms(&self) -> Result<AgreedTerms, String> {
        let there = self.members.iter().filter(|node| !node.is_gone());
        let members = there.count() as u64;
        let expires = self.world.now(COORDINATOR).after(86_400);
        let terms = Terms {
            flow: self.settings.flow,
            empty_leaf_allowed: self.settings.empty_leaf_allowed,
            response_deadline_s: self.settings.response_deadline_s,
            confirmations: CONFIRMATIONS.into(),
            max_strikes: self.settings.max_strikes,
            ..Terms::new(BtcNetwork::Regtest, members, expires)
        };
        let value = terms.to_value().map_err(|error| error.to_string())?;
        AgreedTerms::parse(value).map_err(|error| error.to_string())
    }
}

/// Whether something was signed that cannot be proven yet, or is not even known.
fn lacks_proofs(cohort: &Membership) -> bool {
    let mut candidates = cohort.candidates.iter();
    cohort.unexplained().next().is_some()
        || candidates.any(|signed| {
            let mut indexes = cohort.dids.keys();
            indexes.any(|index| !signed.proofs.contains_key(index))
        })
}

/// The people ask for nothing that an agent may refuse.
fn must(answer: Option<Result<(), Rejection>>) -> Result<(), String> {
    match answer {
        Some(Err(rejection)) => Err(format!("a user's command was refused: {rejection}")),
        Some(Ok(())) | None => Ok(()),
    }
}
