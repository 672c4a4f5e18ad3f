//! How a client proves who it is: who may log in at all, the plugins by which it is shown, and their exchange.
//!
//! Does not know packets' framing or sockets: payloads in, payloads out. The engine keeps verifiers, never passwords; from
//! the double SHA-256 that it keeps for `caching_sha2_password` every client can be checked by that plugin's short exchange.
//! Its long one, for which a password would have to travel under TLS or RSA, is never asked for.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use async_trait::async_trait;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use sheaf_common::settings::MetadataReads;
use sheaf_query::access::Verifier;
use sheaf_query::definitions::ELECTION;
use sheaf_query::{Engine, Identity};

use super::wire::put_zero_ended;

pub const SALT_BYTES: usize = 20;
pub type Salt = [u8; SALT_BYTES];

/// Printable bytes, as clients expect them; none is zero, which would end the salt early.
pub fn salt() -> Salt {
    std::array::from_fn(|_| {
        loop {
            let byte = rand::random_range(0x21..0x7F);
            if byte != b'$' {
                break byte;
            }
        }
    })
}

/// Who may log in and how they prove it. Asked once in each login and each change of user.
#[async_trait]
pub trait Accounts: fmt::Debug + Send + Sync {
    /// Of the user who connects from that address; none for an unknown one. Takes a few seconds at most.
    async fn candidate(&self, user: &str, peer: IpAddr) -> Option<Candidate>;

    /// Whether nobody is let in without TLS.
    fn require_tls(&self) -> bool {
        false
    }
}

/// Whom a client may turn out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub identity: Identity,
    pub verifier: Verifier,
    pub is_locked: bool,
    pub requires_tls: bool,
    /// What is known of it may be out of date, and it is not one of those that look after the server.
    pub is_offline: bool,
}

/// The accounts of an engine, as all coordinators have agreed on them before the login. Where no majority says so in time,
/// only those log in that manage connections, root among them, by what this process knows: they can look what is wrong,
/// and a user who was dropped or locked elsewhere does not come in by the coordinator that has not heard of it. Whoever
/// has the server read metadata locally lets everybody in by that.
#[derive(Debug)]
pub struct EngineAccounts {
    pub engine: Arc<Engine>,
    /// Root of this machine may come from others too while it has no password: what `--insecure` asks for.
    pub lets_open_root_in: bool,
}

#[async_trait]
impl Accounts for EngineAccounts {
    async fn candidate(&self, user: &str, peer: IpAddr) -> Option<Candidate> {
        let access = self.engine.access();
        let is_confirmed = match self.engine.globals().settings.metadata_reads {
            MetadataReads::Local => true,
            MetadataReads::Latest => access.catch_up(ELECTION).await.is_ok(),
        };
        let accounts = access.accounts();
        let local = || {
            let root = accounts.of_login(user, Ipv4Addr::LOCALHOST.into());
            root.filter(|(_, it)| self.lets_open_root_in && user == "root" && !it.verifier.has_password())
        };
        let (name, account) = accounts.of_login(user, peer).or_else(local)?;
        Some(Candidate {
            identity: Identity::Account(name.clone()),
            verifier: account.verifier.clone(),
            is_locked: account.is_locked,
            requires_tls: account.requires_tls,
            is_offline: !is_confirmed && !accounts.manages_connections(name),
        })
    }

    fn require_tls(&self) -> bool {
        self.engine.globals().variables.is_on("require_secure_transport")
    }
}

fn accepts(verifier: Option<&Verifier>, plugin: Plugin) -> bool {
    match verifier {
        Some(open) if !open.has_password() => true,
        Some(Verifier::Native(_)) => plugin == Plugin::Native,
        // Nobody is told whether an account is there.
        Some(Verifier::CachingSha2(_)) | None => plugin == Plugin::CachingSha2,
    }
}

/// Whether an answer other than the empty one is that of somebody who knows the password.
fn matches(verifier: &Verifier, salt: &Salt, answer: &[u8]) -> bool {
    match verifier {
        Verifier::Native(None) | Verifier::CachingSha2(None) => false,
        Verifier::Native(Some(twice)) => {
            let mask = Sha1::new().chain_update(salt).chain_update(twice).finalize();
            unmasked::<20>(answer, &mask).is_some_and(|once| is_equal(&Sha1::digest(once), twice))
        }
        Verifier::CachingSha2(Some(twice)) => {
            let mask = Sha256::new().chain_update(twice).chain_update(salt).finalize();
            unmasked::<32>(answer, &mask).is_some_and(|once| is_equal(&Sha256::digest(once), twice))
        }
    }
}

/// The password's hash, if the answer is that hash under this mask.
fn unmasked<const N: usize>(answer: &[u8], mask: &[u8]) -> Option<[u8; N]> {
    let answer: &[u8; N] = answer.try_into().ok()?;
    let mask: &[u8; N] = mask.try_into().ok()?;
    Some(std::array::from_fn(|i| answer[i] ^ mask[i]))
}

/// In a time that does not depend on where they differ.
fn is_equal(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len() && left.iter().zip(right).fold(0, |bits, (l, r)| bits | (l ^ r)) == 0
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plugin {
    Native,
    CachingSha2,
}

impl Plugin {
    /// What the greeting names.
    pub const DEFAULT: Self = Self::CachingSha2;

    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "mysql_native_password",
            Self::CachingSha2 => "caching_sha2_password",
        }
    }

    fn of_name(name: &str) -> Option<Self> {
        [Self::Native, Self::CachingSha2].into_iter().find(|plugin| plugin.name() == name)
    }
}

/// What a client sent of itself to be believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// From before plugins were named: an answer of the native one.
    Unnamed(Vec<u8>),
    Named {
        plugin: String,
        answer: Vec<u8>,
    },
}

/// How a login goes on.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// The client is sent the question; what it answers goes to the exchange.
    Ask {
        question: Vec<u8>,
        exchange: Exchange,
    },
    Judged(Judgement),
}

/// Whether a client is who it says; if so, what it is sent before the OK.
pub type Judgement = Result<Option<&'static [u8]>, Refusal>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    AccessDenied {
        with_password: bool,
    },
    /// The client knows only a plugin that the account does not use.
    PluginNotSpoken,
}

/// A login, or change of user, of which one answer is to come.
#[derive(Debug, PartialEq, Eq)]
pub struct Exchange {
    /// None of somebody unknown, who is refused in the way in which a wrong password is.
    verifier: Option<Verifier>,
    salt: Salt,
    plugin: Plugin,
}

impl Exchange {
    /// `salt` is that of the greeting, also for a change of user.
    pub fn begin(verifier: Option<Verifier>, salt: Salt, proof: &Proof) -> Step {
        let wanted = if accepts(verifier.as_ref(), Plugin::DEFAULT) { Plugin::DEFAULT } else { Plugin::Native };
        let (named, answer) = match proof {
            Proof::Unnamed(answer) => (Some(Plugin::Native), answer),
            Proof::Named { plugin, answer } => (Plugin::of_name(plugin), answer),
        };
        let spoken = named.filter(|plugin| accepts(verifier.as_ref(), *plugin));
        let speaks_plugins = matches!(proof, Proof::Named { .. });
        let exchange = Self { verifier, salt, plugin: spoken.unwrap_or(wanted) };
        match spoken {
            // MariaDB's clients send nothing by a plugin that the greeting did not name, and wait to be asked by it.
            Some(plugin) if speaks_plugins && plugin != Plugin::DEFAULT && answer.is_empty() => exchange.ask(),
            Some(_) => Step::Judged(exchange.judge(answer)),
            None if speaks_plugins => exchange.ask(),
            None => Step::Judged(Err(Refusal::PluginNotSpoken)),
        }
    }

    /// Asks the client to use the plugin.
    fn ask(self) -> Step {
        let mut question = vec![0xFE];
        put_zero_ended(&mut question, self.plugin.name().as_bytes());
        put_zero_ended(&mut question, &self.salt);
        Step::Ask { question, exchange: self }
    }

    /// Judges what the client answered by the plugin.
    pub fn judge(&self, answer: &[u8]) -> Judgement {
        const FAST_OK: &[u8] = &[0x01, 0x03];
        // Without a password some send nothing, some a zero byte; they wait for nothing before the OK.
        if matches!(answer, [] | [0]) {
            return match &self.verifier {
                Some(open) if !open.has_password() => Ok(None),
                _ => Err(Refusal::AccessDenied { with_password: false }),
            };
        }
        if !self.verifier.as_ref().is_some_and(|it| matches(it, &self.salt, answer)) {
            return Err(Refusal::AccessDenied { with_password: true });
        }
        Ok((self.plugin == Plugin::CachingSha2).then_some(FAST_OK))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: Salt = *b"abcdefghijklmnopqrst";
    const DENIED: Judgement = Err(Refusal::AccessDenied { with_password: true });

    /// What a client computes, in its own words: from the password, not from the verifier.
    fn prove(plugin: Plugin, password: &str) -> Vec<u8> {
        let masked = |hash: &[u8], mask: &[u8]| hash.iter().zip(mask).map(|(l, r)| l ^ r).collect();
        match plugin {
            Plugin::Native => {
                let once = Sha1::digest(password);
                masked(&once, &Sha1::digest([&SALT[..], &Sha1::digest(once)].concat()))
            }
            Plugin::CachingSha2 => {
                let once = Sha256::digest(password);
                masked(&once, &Sha256::digest([&Sha256::digest(once)[..], &SALT].concat()))
            }
        }
    }

    fn named(plugin: &str, answer: &[u8]) -> Proof {
        Proof::Named { plugin: plugin.to_owned(), answer: answer.to_vec() }
    }

    fn judged(verifier: impl Into<Option<Verifier>>, proof: Proof) -> Judgement {
        match Exchange::begin(verifier.into(), SALT, &proof) {
            Step::Judged(judgement) => judgement,
            asked => panic!("{asked:?}"),
        }
    }

    /// The client is asked to use this plugin.
    fn asked(verifier: impl Into<Option<Verifier>>, proof: Proof, plugin: Plugin) -> Exchange {
        match Exchange::begin(verifier.into(), SALT, &proof) {
            Step::Ask { question, exchange } => {
                assert_eq!(question, [b"\xfe", plugin.name().as_bytes(), b"\0", &SALT, b"\0"].concat());
                exchange
            }
            judged => panic!("{judged:?}"),
        }
    }

    #[test]
    fn passwords_are_checked_by_both_plugins() {
        for (plugin, verifier, more) in [
            (Plugin::Native, Verifier::native("right"), None),
            (Plugin::CachingSha2, Verifier::caching_sha2("right"), Some(&[1, 3][..])),
        ] {
            let with = |answer: &[u8]| judged(verifier.clone(), named(plugin.name(), answer));
            assert_eq!(with(&prove(plugin, "right")), Ok(more));
            assert_eq!(with(&prove(plugin, "wrong")), DENIED);
            assert_eq!(with(&prove(plugin, "right")[1..]), DENIED);
            assert_eq!(with(&[0]), Err(Refusal::AccessDenied { with_password: false }));
        }
    }

    #[test]
    fn a_client_is_asked_for_the_plugin_of_its_account() {
        let (native, sha2) = (Plugin::Native.name(), Plugin::CachingSha2.name());
        for (verifier, says, wanted) in [
            (Verifier::native("x"), sha2, Plugin::Native),
            (Verifier::caching_sha2("x"), native, Plugin::CachingSha2),
            (Verifier::native("x"), "mysql_clear_password", Plugin::Native),
            (Verifier::caching_sha2("x"), "", Plugin::CachingSha2),
        ] {
            let exchange = asked(verifier, named(says, &prove(Plugin::Native, "y")), wanted);
            assert!(exchange.judge(&prove(wanted, "x")).is_ok(), "{says}");
            assert_eq!(exchange.judge(&prove(wanted, "y")), DENIED, "{says}");
        }
        // Without a word of plugins it cannot be asked.
        let answer = Proof::Unnamed(prove(Plugin::Native, "x"));
        assert_eq!(judged(Verifier::native("x"), answer.clone()), Ok(None));
        assert_eq!(judged(Verifier::caching_sha2("x"), answer), Err(Refusal::PluginNotSpoken));
    }

    #[test]
    fn nothing_by_another_plugin_than_the_greetings_is_asked_again() {
        for open in [Verifier::Native(None), Verifier::CachingSha2(None)] {
            let exchange = asked(open.clone(), named(Plugin::Native.name(), &[]), Plugin::Native);
            assert_eq!(exchange.judge(&[]), Ok(None));
            assert_eq!(judged(open.clone(), named(Plugin::CachingSha2.name(), &[])), Ok(None));
            assert_eq!(judged(open, Proof::Unnamed(Vec::new())), Ok(None));
        }
    }

    #[test]
    fn accounts_without_a_password_and_nobody() {
        let sha2 = |answer: &[u8]| named(Plugin::CachingSha2.name(), answer);
        let given = prove(Plugin::CachingSha2, "any");
        assert_eq!(judged(Verifier::CachingSha2(None), sha2(&given)), DENIED);
        assert_eq!(judged(Verifier::CachingSha2(None), sha2(&[])), Ok(None));
        assert_eq!(judged(None::<Verifier>, sha2(&given)), DENIED);
        assert_eq!(judged(None::<Verifier>, sha2(&[])), Err(Refusal::AccessDenied { with_password: false }));
        asked(None::<Verifier>, named(Plugin::Native.name(), b"x"), Plugin::DEFAULT);
    }

    #[test]
    fn salts_are_printable_and_differ() {
        let (first, second) = (salt(), salt());
        assert!(first.iter().all(|byte| (0x21..0x7F).contains(byte)), "{first:?}");
        assert_ne!(first, second);
    }
}
