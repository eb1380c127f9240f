//! Keys at rest: encrypted homes of the real binaries, as users make, open, convert, export and restore them.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use beacon_tests::harness::Member::Signs;
use beacon_tests::harness::{Agent, Binary, Net, Output, Regtest, Scratch};
use serde_json::{Value, json};

const PASSPHRASE: &str = "correct horse battery staple";
const OTHER: &str = "quite another passphrase";
const NEW: &str = "New passphrase for the agent's keys: ";
const AGAIN: &str = "The same again: ";
const WORDS: &str = "The 24 words, which are not shown: ";
const YES: &str = "Type yes to go on: ";
/// Exit code of keys that stay locked.
const LOCKED: i32 = 4;

/// One participant's home, which nobody runs.
struct Home {
    scratch: Scratch,
}

impl Home {
    fn new() -> Self {
        let scratch = Scratch::new();
        private(&scratch.path().join("passphrase"), PASSPHRASE);
        private(&scratch.path().join("other"), OTHER);
        Self { scratch }
    }

    fn path(&self) -> PathBuf {
        self.scratch.path().join("home")
    }

    fn seed(&self) -> PathBuf {
        self.path().join("seed")
    }

    /// A file beside the home.
    fn file(&self, name: &str) -> String {
        self.scratch.path().join(name).display().to_string()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.run_with(None, "", arguments)
    }

    /// With a passphrase file of this name.
    fn unlocked(&self, file: &str, arguments: &[&str]) -> Output {
        let file = self.file(file);
        self.run(&[arguments, &["--passphrase-file", &file]].concat())
    }

    fn run_with(&self, variable: Option<&str>, input: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(Binary::Participant.path());
        command.arg("--data-dir").arg(self.path()).args(arguments);
        if let Some(passphrase) = variable {
            command.env("BEACON_PARTICIPANT_PASSPHRASE", passphrase);
        }
        finish(command, input)
    }

    /// At a terminal of its own, where a person answers these prompts. What the terminal shows is the standard output.
    fn typed(&self, answers: &[(&str, &str)], arguments: &[&str]) -> Output {
        let line = format!(
            "{} --data-dir {} {}",
            Binary::Participant.path().display(),
            self.path().display(),
            arguments.join(" ")
        );
        let mut command = Command::new("timeout");
        let script = [
            "--foreground",
            "60",
            "script",
            "--quiet",
            "--return",
            "--command",
        ];
        command.args(script).args([&line, "/dev/null"]);
        without_variables(&mut command);
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = pipes.spawn().unwrap();
        let (mut keyboard, mut screen) =
            (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut shown = Vec::new();
        for (prompt, answer) in answers {
            let from = shown.len();
            while !shown[from..].ends_with(prompt.as_bytes()) {
                let mut byte = [0];
                let read = screen.read(&mut byte).unwrap();
                assert_eq!(
                    read,
                    1,
                    "no {prompt:?}: {}",
                    String::from_utf8_lossy(&shown)
                );
                shown.extend(byte);
            }
            if *prompt != YES {
                wait_for_hiding(child.id());
            }
            writeln!(keyboard, "{answer}").unwrap();
        }
        screen.read_to_end(&mut shown).unwrap();
        Output {
            code: child.wait().unwrap().code().unwrap(),
            stdout: String::from_utf8(shown).unwrap(),
            stderr: String::new(),
        }
    }

    /// The DID that the home's keys make.
    fn did(&self, file: &str) -> String {
        let output = self.unlocked(file, &["--json", "did"]);
        assert_eq!(output.code, 0, "{output:?}");
        let answer: Value = serde_json::from_str(&output.stdout).unwrap();
        answer["did"].as_str().unwrap().to_owned()
    }
}

fn private(path: &Path, content: &str) {
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600);
    file.open(path)
        .unwrap()
        .write_all(content.as_bytes())
        .unwrap();
}

/// Waits until the terminal below this process no longer shows what is typed: the prompt comes a moment earlier.
fn wait_for_hiding(timeout: u32) {
    let children = |id: u32| {
        let list = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        let ids: Vec<u32> = list
            .split_whitespace()
            .map(|id| id.parse().unwrap())
            .collect();
        ids
    };
    loop {
        let scripts = children(timeout);
        let inside = scripts.iter().flat_map(|id| children(*id));
        let hidden = |id: u32| {
            let terminal = format!("/proc/{id}/fd/0");
            let stty = Command::new("stty")
                .args(["-a", "-F", &terminal])
                .output()
                .unwrap();
            String::from_utf8_lossy(&stty.stdout).contains(" -echo ")
        };
        if inside.into_iter().any(hidden) {
            return;
        }
    }
}

/// Leaves it no `BEACON_` variable but those that it was given.
fn without_variables(command: &mut Command) {
    let given: Vec<_> = command
        .get_envs()
        .map(|(name, _)| name.to_owned())
        .collect();
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("BEACON_") && !given.contains(&name) {
            command.env_remove(name);
        }
    }
}

/// Runs a command to its end.
fn finish(mut command: Command, input: &str) -> Output {
    without_variables(&mut command);
    let pipes = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = pipes.spawn().unwrap();
    // Whoever does not read its input may be gone already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    Output {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// One clear line on standard error, and this exit code.
fn fails(output: &Output, code: i32, words: &[&str]) {
    assert_eq!(
        (output.code, output.stdout.as_str()),
        (code, ""),
        "{output:?}"
    );
    assert_eq!(output.stderr.lines().count(), 1, "{output:?}");
    for word in words {
        assert!(
            output.stderr.contains(word),
            "{word:?} is missing: {output:?}"
        );
    }
    assert!(
        !output.stderr.contains(PASSPHRASE) && !output.stderr.contains(OTHER),
        "{output:?}"
    );
}

fn encrypted(output: &Output, expected: bool) {
    assert_eq!(output.code, 0, "{output:?}");
    assert!(
        output.stdout.contains(&format!("encrypted: {expected}\n")),
        "{output:?}"
    );
}

#[test]
fn a_new_home_needs_a_passphrase_or_a_word() {
    let home = Home::new();
    let words = [
        "--passphrase-file",
        "BEACON_PARTICIPANT_PASSPHRASE",
        "--unencrypted-keys",
    ];
    fails(&home.run(&["did"]), LOCKED, &words);
    let run = ["run", "--chain-url", "http://127.0.0.1:1"];
    fails(&home.run(&run), LOCKED, &words);
    let both = home.unlocked("passphrase", &["--unencrypted-keys", "did"]);
    fails(&both, LOCKED, &["got both"]);
    assert!(!home.path().exists(), "nothing was made");

    let did = home.did("passphrase");
    let text = fs::read_to_string(home.seed()).unwrap();
    assert!(
        text.starts_with("-----BEGIN AGE ENCRYPTED FILE-----\n"),
        "{text}"
    );
    assert_eq!(
        fs::metadata(home.seed()).unwrap().permissions().mode() & 0o7777,
        0o600
    );
    // By the environment as well; and a file that is named goes first.
    let output = home.run_with(Some(PASSPHRASE), "", &["did"]);
    assert_eq!((output.code, output.stdout), (0, format!("did: {did}\n")));
    let file = home.file("passphrase");
    let output = home.run_with(Some(OTHER), "", &["--passphrase-file", &file, "did"]);
    assert_eq!(output.code, 0, "{output:?}");
    // In the configuration, where the passphrase itself has no place.
    let config = home.path().join("config.toml");
    fs::write(&config, format!("passphrase_file = \"{file}\"\n")).unwrap();
    assert_eq!(home.run(&["did"]).code, 0);
    fails(
        &home.run_with(Some(OTHER), "", &["did"]),
        LOCKED,
        &["does not open"],
    );
    fs::write(&config, "passphrase = \"secret\"\n").unwrap();
    fails(&home.run(&["did"]), 2, &["unknown field `passphrase`"]);
    fs::remove_file(config).unwrap();
    fs::remove_dir_all(home.path()).unwrap();
    assert_eq!(home.run(&["--unencrypted-keys", "did"]).code, 0);
    let words = fs::read_to_string(home.seed()).unwrap();
    assert_eq!(words.split_whitespace().count(), 24);
}

#[test]
fn locked_keys_stay_locked_and_open_again() {
    let home = Home::new();
    let did = home.did("passphrase");
    fails(
        &home.run(&["did"]),
        LOCKED,
        &["is encrypted and no passphrase was given"],
    );
    // As often as somebody errs.
    for _ in 0..3 {
        fails(
            &home.unlocked("other", &["did"]),
            LOCKED,
            &["does not open", "try again"],
        );
    }
    let exposed = home.file("exposed");
    fs::write(&exposed, PASSPHRASE).unwrap();
    fs::set_permissions(&exposed, fs::Permissions::from_mode(0o644)).unwrap();
    fails(
        &home.unlocked("exposed", &["did"]),
        LOCKED,
        &["mode 0644", "chmod 600"],
    );
    assert_eq!(home.did("passphrase"), did);

    let whole = fs::read(home.seed()).unwrap();
    for damaged in [whole[..whole.len() / 2].to_vec(), Vec::new()] {
        fs::write(home.seed(), damaged).unwrap();
        fails(
            &home.unlocked("passphrase", &["did"]),
            1,
            &["seed", "backup"],
        );
    }
    fs::write(home.seed(), whole).unwrap();
    assert_eq!(home.did("passphrase"), did);
}

/// Typed, and not to be seen.
#[test]
fn a_person_types_the_passphrase_at_a_terminal() {
    let home = Home::new();
    let run = ["did"];
    let slip = home.typed(&[(NEW, PASSPHRASE), (AGAIN, OTHER)], &run);
    assert_eq!(slip.code, LOCKED, "{slip:?}");
    assert!(
        slip.stdout.contains("two different passphrases"),
        "{slip:?}"
    );
    let made = home.typed(&[(NEW, PASSPHRASE), (AGAIN, PASSPHRASE)], &run);
    assert_eq!(made.code, 0, "{made:?}");
    let open = format!("Passphrase for {}: ", home.seed().display());
    let opened = home.typed(&[(&open, PASSPHRASE)], &run);
    assert_eq!(opened.code, 0, "{opened:?}");
    assert!(
        opened.stdout.contains(&home.did("passphrase")),
        "{opened:?}"
    );
    let wrong = home.typed(&[(&open, OTHER)], &run);
    assert_eq!(wrong.code, LOCKED, "{wrong:?}");
    // An export asks before it writes, and says what it is.
    let export = ["keys", "export", "--as", "phrase"];
    let no = home.typed(&[(YES, "no")], &export);
    assert_eq!(no.code, 1, "{no:?}");
    assert!(
        no.stdout.contains("24 words") && no.stdout.contains("nothing was written"),
        "{no:?}"
    );
    let yes = home.typed(&[(YES, "yes"), (&open, PASSPHRASE)], &export);
    assert_eq!(yes.code, 0, "{yes:?}");
    let words = yes.stdout.lines().last().unwrap().trim();
    assert_eq!(words.split(' ').count(), 24, "{yes:?}");
    let back = Home::new();
    let answers = [(WORDS, words), (NEW, PASSPHRASE), (AGAIN, PASSPHRASE)];
    let import = back.typed(&answers, &["keys", "import"]);
    assert_eq!(import.code, 0, "{import:?}");
    assert!(!import.stdout.contains(words), "{import:?}");
    assert_eq!(back.did("passphrase"), home.did("passphrase"));
    for output in [slip, made, opened, wrong, no, yes, import] {
        assert!(
            !output.stdout.contains(PASSPHRASE) && !output.stdout.contains(OTHER),
            "{output:?}"
        );
    }
}

#[tokio::test]
async fn an_old_home_is_warned_of_and_converted_while_nobody_uses_it() {
    let home = Home::new();
    let chain = Regtest::start(home.scratch.path()).await;
    let unlock = ["--passphrase-file".to_owned(), home.file("passphrase")];
    let options = ["--chain-url".to_owned(), chain.url().to_owned()];
    let mut agent = Agent::start(
        "home",
        Binary::Participant,
        home.scratch.path(),
        options.to_vec(),
    )
    .await;
    let did = agent.did().to_owned();
    assert!(
        agent.log().contains("the keys are not encrypted"),
        "{}",
        agent.log()
    );
    let words = fs::read_to_string(home.seed()).unwrap();
    // Not under a running agent.
    let pid = format!("process {}", agent.id());
    for command in ["encrypt", "decrypt", "passphrase"] {
        let arguments = ["keys", command, "--unencrypted-keys"];
        let output = home.unlocked("passphrase", &arguments);
        fails(
            &output,
            1,
            &[if command == "passphrase" {
                "in use by"
            } else {
                &pid
            }],
        );
    }
    assert_eq!(agent.terminate().await, 0);

    fails(
        &home.run(&["keys", "encrypt"]),
        LOCKED,
        &["keys need a passphrase"],
    );
    encrypted(&home.unlocked("passphrase", &["keys", "encrypt"]), true);
    fails(
        &home.unlocked("passphrase", &["keys", "encrypt"]),
        1,
        &["encrypted already"],
    );
    let file = fs::read_to_string(home.seed()).unwrap();
    assert!(file.starts_with("-----BEGIN AGE"), "{file}");

    // The same agent, with its passphrase; and again after its end.
    let options = options.into_iter().chain(unlock).collect();
    let mut agent = Agent::start("home", Binary::Participant, home.scratch.path(), options).await;
    assert_eq!(agent.did(), did);
    agent.kill();
    agent.restart().await;
    let warnings = agent.log().matches("the keys are not encrypted").count();
    assert_eq!(warnings, 1, "of the first start alone: {}", agent.log());
    assert!(!agent.log().contains(PASSPHRASE));
    assert_eq!(agent.terminate().await, 0);

    let new = home.file("other");
    let change = ["keys", "passphrase", "--new-passphrase-file", &new];
    fails(&home.unlocked("other", &change), LOCKED, &["does not open"]);
    encrypted(&home.unlocked("passphrase", &change), true);
    fails(
        &home.unlocked("passphrase", &["did"]),
        LOCKED,
        &["does not open"],
    );
    assert_eq!(home.did("other"), did);
    fails(
        &home.unlocked("other", &["keys", "decrypt"]),
        2,
        &["--unencrypted-keys"],
    );
    encrypted(
        &home.unlocked("other", &["keys", "decrypt", "--unencrypted-keys"]),
        false,
    );
    assert_eq!(fs::read_to_string(home.seed()).unwrap(), words);
    fails(&home.unlocked("other", &change), 1, &["is not encrypted"]);
}

#[test]
fn exports_bring_the_keys_back() {
    let home = Home::new();
    let did = home.did("passphrase");
    let (age, words) = (home.file("keys.age"), home.file("words"));
    let refused = home.unlocked("passphrase", &["keys", "export"]);
    fails(&refused, 2, &["neither a terminal nor --yes"]);
    let export = |arguments: &[&str]| {
        let output = home.unlocked(
            "passphrase",
            &[&["keys", "export", "--yes"], arguments].concat(),
        );
        assert!(
            output.stderr.contains("state.redb") && output.stderr.contains("Secret nonces"),
            "{output:?}"
        );
        output
    };
    assert_eq!(export(&["--out", &age]).code, 0);
    assert_eq!(
        export(&["--out", &age]).code,
        1,
        "an older backup is not overwritten"
    );
    assert_eq!(
        fs::metadata(&age).unwrap().permissions().mode() & 0o7777,
        0o600
    );
    let phrase = export(&["--as", "phrase"]).stdout;
    assert_eq!(
        (phrase.lines().count(), phrase.split_whitespace().count()),
        (1, 24)
    );
    private(Path::new(&words), &phrase);
    let locked = home.unlocked("other", &["keys", "export", "--yes"]);
    assert_eq!(
        (locked.code, locked.stdout.as_str()),
        (LOCKED, ""),
        "{locked:?}"
    );

    let passphrase = home.file("passphrase");
    for (file, input) in [(age.as_str(), ""), (&words, ""), ("-", &phrase)] {
        let back = Home::new();
        let import = ["keys", "import", file, "--passphrase-file", &passphrase];
        encrypted(&back.run_with(None, input, &import), true);
        assert_eq!(back.did("passphrase"), did, "{file}");
        // Once: what is there may hold funds.
        fails(
            &back.run_with(None, input, &import),
            1,
            &["exists already", "never overwritten"],
        );
    }
    let back = Home::new();
    encrypted(
        &back.run_with(
            None,
            &phrase,
            &["keys", "import", "-", "--unencrypted-keys"],
        ),
        false,
    );
    assert_eq!(fs::read_to_string(back.seed()).unwrap(), phrase);
}

#[test]
fn a_restore_takes_the_right_keys_only() {
    let home = Home::new();
    let did = home.did("passphrase");
    let phrase = home
        .unlocked("passphrase", &["keys", "export", "--as", "phrase", "--yes"])
        .stdout;
    // The seed is lost, its memory is not.
    fs::remove_file(home.seed()).unwrap();
    fails(
        &home.unlocked("passphrase", &["did"]),
        1,
        &["seed is missing", "keys import"],
    );
    let passphrase = home.file("passphrase");
    let import = ["keys", "import", "-", "--passphrase-file", &passphrase];
    let others = "abandon ".repeat(23) + "art";
    fails(
        &home.run_with(None, &others, &import),
        1,
        &["is not the seed"],
    );
    assert!(!home.seed().exists());
    encrypted(&home.run_with(None, &phrase, &import), true);
    assert_eq!(home.did("passphrase"), did);

    let fresh = Home::new();
    for (input, words) in [
        ("", "standard input: it is empty"),
        ("abandon art", "got 2 words, expected 24"),
        (&"abandon ".repeat(24), "checksum"),
        ("age-encryption.org/v1\n", "not a whole age file"),
    ] {
        fails(&fresh.run_with(None, input, &import), 2, &[words]);
    }
    let exposed = home.file("exposed");
    fs::write(&exposed, &phrase).unwrap();
    fs::set_permissions(&exposed, fs::Permissions::from_mode(0o644)).unwrap();
    let import = ["keys", "import", &exposed, "--passphrase-file", &passphrase];
    fails(&fresh.run(&import), 2, &["chmod 600"]);
    let import = ["keys", "import", "-"];
    fails(
        &fresh.run_with(None, &phrase, &import),
        LOCKED,
        &["keys need a passphrase"],
    );
    assert!(!fresh.path().exists(), "nothing was made");
    for command in ["encrypt", "list", "export"] {
        let output = fresh.unlocked("passphrase", &["keys", command]);
        fails(&output, 1, &["there are no keys", "keys import"]);
    }
    assert!(!fresh.path().exists(), "nothing was made");
}

#[tokio::test]
async fn the_list_of_keys_is_the_same_with_and_without_the_agent() {
    let mut net = Net::start(&[Signs, Signs]).await;
    let cohort = net.form(&[0, 1], json!({})).await;
    let list = ["keys", "list"];
    let key = net.members[0].call("cohorts", Value::Null).await[0]["key"].clone();
    let running = net.members[0].answer(&list).await;
    let keys = running["keys"].as_array().unwrap();
    assert_eq!(running["encrypted"], false);
    assert_eq!(keys.len(), 3, "{running}");
    assert_eq!(keys[0]["did"], net.members[0].did());
    let purpose = keys[0]["purpose"].as_str().unwrap();
    assert!(purpose.contains(net.coordinator.did()), "{purpose}");
    assert_eq!(keys[2]["public_key"], key);
    assert!(
        keys[2]["path"].as_str().unwrap().starts_with("m/1642'/1'/"),
        "{running}"
    );
    assert!(
        keys[2]["purpose"].as_str().unwrap().contains(&cohort.id),
        "{running}"
    );
    assert_eq!(net.members[0].terminate().await, 0);
    assert_eq!(net.members[0].answer(&list).await, running);

    let own = net.coordinator.answer(&list).await;
    assert_eq!(own["keys"].as_array().unwrap().len(), 1);
    assert_eq!(own["keys"][0]["did"], net.coordinator.did());
    let words = fs::read_to_string(net.members[0].data_dir().join("seed")).unwrap();
    let words: Vec<_> = words.split_whitespace().collect();
    for pair in words.windows(2) {
        assert!(!running.to_string().contains(&pair.join(" ")), "{running}");
    }
}
