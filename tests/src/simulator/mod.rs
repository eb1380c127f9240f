//! One coordinator and N participants in one process, with virtual time and a seed.
//!
//! The machines are the binaries' own, the cryptography is real, messages go through their wire form and the store is the
//! runtime's in-memory one. What is doubled is the transport, the clock, the disk and the chain; and these misbehave
//! as the [`Faults`] say. Whatever happens follows from the seed, so a failure can be repeated, with a transcript.
//!
//! ```
//! use beacon_tests::simulator::{Settings, Simulation};
//!
//! let report = Simulation::new(7, Settings::default()).run()?;
//! assert_eq!(report.signals, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod attack;
pub mod campaign;
mod chain;
mod dice;
mod envelope;
mod live;
mod network;
mod node;
mod oracle;
mod report;
mod settings;
mod stage;
mod users;
mod witness;
mod world;

use beacon_cohort::coordinator::{self, Coordinator, FeeRate, Phase, Stage};
use beacon_cohort::participant::{LeafSecret, Participant, Policy, Standing};
use beacon_cohort::terms::BtcNetwork;

pub use report::{Failure, Report};
pub use settings::{CrashPoint, Faults, Restore, Settings};

pub use attack::Letter;

use node::{Fate, Node};
use oracle::Sessions;
use users::{CONFIRMATIONS, LOOK_MS, Users, Wanted, dids};
use world::{COORDINATOR, Happening, World};

/// A coordinator, its participants, and the world they live in.
pub struct Simulation {
    seed: u64,
    settings: Settings,
    world: World,
    coordinator: Node<Coordinator>,
    members: Vec<Node<Participant>>,
    users: Users,
}

/// Until when a simulation goes on.
#[derive(Clone, Copy, Debug)]
enum Goal {
    /// Every cohort is set, agreed to by all and funded.
    Formed,
    /// Every update that was wanted is in a block, as its member sees it.
    Announced,
    /// Every signal is buried, and nothing is under way.
    Settled,
}

impl Simulation {
    /// Nobody has started yet. Equal seeds and settings lead to equal simulations.
    pub fn new(seed: u64, settings: Settings) -> Self {
        let fate = |node| Fate::of(node, &settings);
        let coordinator = Node::new(COORDINATOR, seed, fate(COORDINATOR), || {
            Coordinator::new(coordinator::Config {
                fee_rate: FeeRate::Estimated { blocks: 6 },
                ..coordinator::Config::default()
            })
        });
        let members = (1..=settings.members).map(|member| {
            let policy = Policy {
                auto_join: Some(dids(member, settings.dids_per_member)),
                auto_sign: settings.declines == 0 || member != 1,
                ..Policy::asking(BtcNetwork::Regtest)
            };
            let secret = LeafSecret::new(node::leaf_secret(seed, member));
            let build = move || Participant::new(policy.clone(), secret.clone());
            Node::new(member, seed, fate(member), build)
        });
        let mut world = World::new(seed, settings.faults);
        world.set_clocks(settings.members, settings.clock_skew_s);
        for node in 0..=settings.members {
            world.schedule(0, Happening::Start { node });
        }
        world.schedule(1, Happening::Users);
        world.schedule(1_000, Happening::Block);
        Self {
            seed,
            world,
            coordinator,
            members: members.collect(),
            users: Users::new(settings.declines),
            settings,
        }
    }

    /// The whole life of the cohorts, as the settings describe it, and then every check.
    pub fn run(mut self) -> Result<Report, Box<Failure>> {
        self.form()?;
        for _ in 0..self.settings.signals {
            self.round()?;
        }
        self.settle()
    }

    /// Goes on until every cohort can sign.
    pub fn form(&mut self) -> Result<(), Box<Failure>> {
        self.advance(Goal::Formed)
    }

    /// One wave of updates, until each of them is in a block.
    pub fn round(&mut self) -> Result<(), Box<Failure>> {
        self.want_updates();
        self.advance(Goal::Announced)
    }

    /// Goes on until every signal is buried, and checks everything.
    pub fn settle(mut self) -> Result<Report, Box<Failure>> {
        self.advance(Goal::Settled)?;
        self.examine().map_err(|reason| self.failure(reason))
    }

    fn advance(&mut self, goal: Goal) -> Result<(), Box<Failure>> {
        while !self.next().map_err(|reason| self.failure(reason))? || !self.reached(goal) {
            if self.world.clock > self.settings.limit_s * 1_000 {
                let reason = format!("{goal:?} was not reached in {} s", self.settings.limit_s);
                return Err(self.failure(reason));
            }
        }
        Ok(())
    }

    /// Lets the next thing happen. `true` when the users have looked, which is often enough to ask for the goal.
    fn next(&mut self) -> Result<bool, String> {
        let happening = self.world.next().ok_or("nothing more happens")?;
        match (happening.node(), happening) {
            (Some(COORDINATOR), happening) => {
                self.coordinator.happen(happening, &mut self.world)?;
            }
            (Some(member), happening) => {
                if let Some(node) = self.members.get_mut(member - 1) {
                    node.happen(happening, &mut self.world)?;
                }
            }
            (None, Happening::Block) => {
                self.world.block(CONFIRMATIONS - 1);
                let interval = self.world.block_interval();
                self.world.schedule(interval, Happening::Block);
            }
            (None, _) => {
                self.world.weather(self.members.len());
                self.look()?;
                self.world.schedule(LOOK_MS, Happening::Users);
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn reached(&self, goal: Goal) -> bool {
        let mut members = self.members.iter();
        let everybody = members.all(|node| node.is_up() || node.is_gone());
        self.coordinator.is_up()
            && everybody
            && match goal {
                Goal::Formed => self.formed(),
                Goal::Announced => self.announced(),
                Goal::Settled => self.settled(),
            }
    }

    fn formed(&self) -> bool {
        let mut cohorts = self.cohorts();
        self.users.cohorts.len() == self.settings.cohorts
            && cohorts.all(|cohort| {
                cohort.is_some_and(|cohort| {
                    cohort.phase == Phase::Acknowledged && cohort.confirmed_balance() > 0
                })
            })
    }

    fn announced(&self) -> bool {
        let idle = self.cohorts_idle();
        // Who is gone for ever never hears of it.
        let there = |wanted: &&Wanted| {
            let node = self.members.get(wanted.member - 1);
            node.is_some_and(|node| !node.is_gone())
        };
        let mut wanted = self.users.wanted.iter().filter(there);
        idle && wanted.all(|wanted| {
            self.membership(wanted.member, wanted.cohort)
                .is_some_and(|cohort| wanted.is_announced(cohort))
        })
    }

    /// No session is under way, and no round has begun.
    fn cohorts_idle(&self) -> bool {
        self.cohorts().flatten().all(|cohort| {
            cohort.session.is_none()
                && cohort.round.stage == Stage::Waiting
                && cohort.round.leaves.is_empty()
        })
    }

    /// The cohorts that are not over, as far as the coordinator knows of them.
    fn cohorts(&self) -> impl Iterator<Item = Option<&coordinator::Cohort>> {
        let known = &self.coordinator.machine().state().cohorts;
        self.users.cohorts.iter().map(|id| known.get(id))
    }

    fn settled(&self) -> bool {
        let buried = self
            .cohorts()
            .flatten()
            .all(|cohort| cohort.live().is_empty());
        let over = |id| self.users.over.contains(&id);
        let there = self.members.iter().filter(|node| !node.is_gone());
        let mut memberships = there
            .flat_map(|node| node.machine().state().cohorts.values())
            .filter(|cohort| !over(cohort.id));
        buried
            && self.announced()
            && memberships.all(|cohort| {
                cohort.session.is_none()
                    && cohort.candidates.iter().all(|candidate| {
                        matches!(
                            candidate.standing,
                            Standing::Buried { .. } | Standing::Superseded
                        )
                    })
            })
    }

    fn examine(&self) -> Result<Report, String> {
        let sessions = Sessions::read(&self.coordinator.log()?);
        let signals = self.check(&sessions)?;
        let tally = &self.world.tally;
        let nodes = std::iter::once(self.coordinator.boundaries());
        Ok(Report {
            seconds: self.world.clock / 1_000,
            messages: tally.messages,
            bytes: tally.bytes,
            lost: tally.lost,
            corrupted: tally.corrupted,
            sessions: sessions.count(),
            abandoned: u32::try_from(sessions.abandoned.len()).unwrap_or(u32::MAX),
            stopped: self.users.stopped,
            signals,
            restarts: tally.restarts,
            restored: tally.restored,
            broken_lines: tally.broken_lines,
            disk_faults: tally.disk_faults,
            reorganisations: tally.reorganisations,
            boundaries: nodes
                .chain(self.members.iter().map(Node::boundaries))
                .collect(),
        })
    }

    fn failure(&self, reason: String) -> Box<Failure> {
        Box::new(Failure {
            seed: self.seed,
            settings: self.settings.clone(),
            reason,
            transcript: self.world.transcript.iter().cloned().collect(),
        })
    }
}
