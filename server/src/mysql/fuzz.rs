//! Random and mutated packets through everything that reads what clients send: nothing panics, nothing is believed.
//!
//! Each target runs for `SHEAF_FUZZ_SECONDS`, one if that is not set. A failure names its seed; `SHEAF_FUZZ_SEED` starts
//! with that one.

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sheaf_planners::parser::{SqlDialect, parse};
use sheaf_query::access::Verifier;

use super::auth::{Exchange, Plugin, Proof, Step};
use super::command::Request;
use super::flags::capability;
use super::handshake::{ChangeUser, HandshakeResponse, asks_for_tls};
use super::packet::{Packet, PacketBuffer, PacketReader};
use super::parameter::ParameterType;
use super::statements::Statements;

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|error| panic!("{variable}={text}: {error}")))
}

/// Runs the target with one seed after another until its time is over.
fn fuzz(target: impl Fn(&mut StdRng)) {
    let deadline = Instant::now() + Duration::from_secs(number("SHEAF_FUZZ_SECONDS").unwrap_or(1));
    let mut seed = number("SHEAF_FUZZ_SEED").unwrap_or_default();
    loop {
        let ran = catch_unwind(AssertUnwindSafe(|| target(&mut StdRng::seed_from_u64(seed))));
        if let Err(panic) = ran {
            eprintln!("failed with SHEAF_FUZZ_SEED={seed}");
            resume_unwind(panic);
        }
        if Instant::now() > deadline {
            return;
        }
        seed += 1;
    }
}

fn bytes(rng: &mut StdRng, n_bytes_max: usize) -> Vec<u8> {
    let n_bytes = rng.random_range(0..=n_bytes_max);
    (0..n_bytes).map(|_| rng.random()).collect()
}

/// Cuts, repeats, flips, and puts in bytes that mean lengths.
fn mutated(rng: &mut StdRng, mut payload: Vec<u8>) -> Vec<u8> {
    for _ in 0..rng.random_range(0..6) {
        let at = rng.random_range(0..=payload.len());
        match rng.random_range(0..5) {
            0 => payload.truncate(at),
            1 if at < payload.len() => payload[at] ^= 1 << rng.random_range(0..8),
            2 => payload
                .insert(at, *[0, 1, 0x7F, 0x80, 0xFB, 0xFC, 0xFD, 0xFE, 0xFF].get(rng.random_range(0..9)).unwrap()),
            3 => {
                let tail = payload[at..].to_vec();
                payload.extend_from_slice(&tail);
            }
            _ => {
                let more = bytes(rng, 12);
                payload.splice(at..at, more);
            }
        }
    }
    payload
}

fn one_of<T: Clone>(rng: &mut StdRng, values: &[T]) -> T {
    values[rng.random_range(0..values.len())].clone()
}

fn plugin_name(rng: &mut StdRng) -> &'static [u8] {
    one_of(rng, &[&b"mysql_native_password"[..], b"caching_sha2_password", b"mysql_clear_password", b"", b"\xff"])
}

#[test]
fn packets_are_the_same_however_their_bytes_arrive() {
    fuzz(|rng| {
        let mut stream = PacketBuffer::default();
        stream.set_sequence(rng.random());
        for _ in 0..rng.random_range(0..5) {
            let payload = bytes(rng, 300);
            stream.packet(|out| out.extend_from_slice(&payload));
        }
        let stream = mutated(rng, stream.as_bytes().to_vec());
        let payload_bytes_max = rng.random_range(0..400);
        let mut read = |n_bytes_max: usize| {
            let mut reader = PacketReader::default();
            let mut packets: Vec<Result<Packet, _>> = Vec::new();
            let mut rest = stream.as_slice();
            loop {
                match reader.next(payload_bytes_max) {
                    Ok(Some(packet)) => packets.push(Ok(packet)),
                    Err(error) => {
                        packets.push(Err(error));
                        return packets;
                    }
                    Ok(None) if rest.is_empty() => return packets,
                    Ok(None) => {
                        let (now, later) = rest.split_at(rng.random_range(1..=n_bytes_max.min(rest.len())));
                        reader.received.extend_from_slice(now);
                        rest = later;
                    }
                }
            }
        };
        let (at_once, bit_by_bit) = (read(usize::MAX), read(7));
        assert_eq!(at_once, bit_by_bit);
        assert!(at_once.iter().flatten().all(|packet| packet.payload.len() <= payload_bytes_max));
    });
}

#[test]
fn logins() {
    const PASSWORD: &str = "not in any of these packets";
    fuzz(|rng| {
        let capabilities = one_of(rng, &[capability::PROTOCOL_41, capability::SERVER, u32::MAX, rng.clone().random()]);
        let mut payload = [&capabilities.to_le_bytes()[..], &[0; 28], b"root\0"].concat();
        let answer = bytes(rng, 40);
        payload.push(answer.len() as u8);
        payload.extend_from_slice(&answer);
        payload.extend_from_slice(b"db\0");
        payload.extend_from_slice(plugin_name(rng));
        payload.extend_from_slice(b"\0\x04\x01k\x01v");
        let payload = mutated(rng, payload);
        let proof = match HandshakeResponse::decode(&payload) {
            Ok(response) => {
                assert_eq!(response.capabilities & !capability::SERVER, 0);
                response.proof
            }
            Err(reason) => {
                assert!(!reason.is_empty());
                return;
            }
        };
        never_admitted(rng, &proof, PASSWORD);
    });
}

#[test]
fn changes_of_user() {
    const PASSWORD: &str = "not in any of these packets";
    fuzz(|rng| {
        let answer = bytes(rng, 40);
        let body = [b"root\0", &[answer.len() as u8][..], &answer, b"db\0\x2d\0", plugin_name(rng), b"\0"].concat();
        let capabilities = one_of(rng, &[capability::PROTOCOL_41, capability::SERVER]);
        if let Some(change) = ChangeUser::decode(&mutated(rng, body), capabilities) {
            never_admitted(rng, &change.proof, PASSWORD);
        }
    });
}

fn never_admitted(rng: &mut StdRng, proof: &Proof, password: &str) {
    for verifier in [Some(Verifier::native(password)), Some(Verifier::caching_sha2(password)), None] {
        let judgement = match Exchange::begin(verifier, super::auth::salt(), proof) {
            Step::Judged(judgement) => judgement,
            Step::Ask { question, exchange } => {
                assert!(
                    [Plugin::Native, Plugin::CachingSha2]
                        .iter()
                        .any(|it| question[1..].starts_with(it.name().as_bytes()))
                );
                let n_bytes = one_of(rng, &[0, 1, 20, 32, 64]);
                exchange.judge(&(0..n_bytes).map(|_| rng.random()).collect::<Vec<u8>>())
            }
        };
        assert!(judgement.is_err(), "{proof:?}");
    }
}

#[test]
fn commands() {
    fuzz(|rng| {
        let seeds = [
            &b"\x03SELECT 1"[..],
            b"\x04t\0a%",
            b"\x0c\x01\0\0\0",
            b"\x17\x01\0\0\0\0\x01\0\0\0",
            b"\x18\x01\0\0\0\0\0data",
            b"\x1b\0\0",
            b"\x1c\x04\0\0\0\x0a\0\0\0",
        ];
        let payload = match rng.random_bool(0.5) {
            true => mutated(rng, one_of(&mut rng.clone(), &seeds).to_vec()),
            false => bytes(rng, 30),
        };
        match Request::decode(&payload) {
            Ok(_) => assert!(!payload.is_empty()),
            Err(error) => assert!([1047, 1300, 1835].contains(&error.code), "{error:?}"),
        }
    });
}

#[test]
fn executions() {
    const LONG_DATA_BYTES_MAX: usize = 64;
    fuzz(|rng| {
        let mut statements = Statements::new(LONG_DATA_BYTES_MAX);
        let n_parameters = rng.random_range(0..20);
        statements.insert(1, n_parameters);
        for _ in 0..rng.random_range(1..12) {
            let mut body = 1u32.to_le_bytes().to_vec();
            match rng.random_range(0..10) {
                0 => assert!(statements.reset(1).is_ok()),
                1 => statements.insert(1, n_parameters),
                2..5 => {
                    body.extend_from_slice(&rng.random_range(0..=n_parameters as u16).to_le_bytes());
                    body.extend(bytes(rng, 40));
                    statements.send_ahead(&mutated(rng, body));
                }
                _ => {
                    body.extend_from_slice(&[rng.random_range(0..2), 1, 0, 0, 0]);
                    body.extend((0..n_parameters.div_ceil(8)).map(|_| rng.random::<u8>() & rng.random::<u8>()));
                    body.push(rng.random_range(0..2));
                    let kinds = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15, 16, 245, 246, 252, 253, 254, 255];
                    for _ in 0..n_parameters {
                        body.extend_from_slice(&[one_of(rng, &kinds), one_of(rng, &[0, 0x80])]);
                    }
                    body.extend(bytes(rng, 200));
                    if let Ok(execution) = statements.execute(&mutated(rng, body))
                        && let Ok(values) = execution.parameters
                    {
                        assert_eq!((execution.statement, values.len()), (1, n_parameters));
                    }
                }
            }
            assert!(statements.long_data_bytes() <= LONG_DATA_BYTES_MAX);
        }
        statements.close(1);
        assert_eq!(statements.long_data_bytes(), 0);
    });
}

#[test]
fn parameters() {
    fuzz(|rng| {
        let payload = bytes(rng, 20);
        let value_type = ParameterType { kind: rng.random(), is_unsigned: rng.random() };
        let mut rest = payload.as_slice();
        match value_type.take_scalar(&mut rest, 7) {
            Ok(_) => assert!(rest.len() <= payload.len()),
            Err(error) => assert!(error.to_string().contains('7'), "{error}"),
        }
        // What was sent ahead has the type that the client says, or none: it is some value, or an error that says which.
        if let Err(error) = value_type.long_scalar(&payload, 7) {
            assert!(error.to_string().contains('7'), "{error}");
        }
    });
}

#[test]
fn statements() {
    fuzz(|rng| {
        let seeds = [
            "SELECT a, `b`, \"c\", @d, @@session.e, ?, -1.5e3 FROM t AS u JOIN v USING (w) WHERE x LIKE 'y%' ESCAPE '|' LIMIT 1, 2",
            "/*!40101 SET @OLD = @@sql_mode, NAMES utf8mb4 */; SET SESSION TRANSACTION READ ONLY; START TRANSACTION READ ONLY",
            "SHOW FULL COLUMNS FROM `t` IN d WHERE Field = 'a'; SHOW VARIABLES WHERE Variable_name IN ('a', 'b'); DESCRIBE d.t",
            "LOCK TABLES `d`.t AS u READ LOCAL, v LOW_PRIORITY WRITE; UNLOCK TABLES; KILL QUERY 7; DO SLEEP(0)",
            "INSERT INTO t (a, b) VALUES (1, x'0aff'), ROW(NULL, _binary'b') ON DUPLICATE KEY UPDATE a = VALUES(a)",
            "LOAD DATA LOCAL INFILE 'f' INTO TABLE t FIELDS TERMINATED BY ',' LINES STARTING BY '>' IGNORE 1 LINES (a, @b)",
            "WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT CASE n WHEN 1 THEN 'a' END, \
             DATE_ADD(now(), INTERVAL '1:2' HOUR_MINUTE), GROUP_CONCAT(DISTINCT n ORDER BY n DESC SEPARATOR ';') FROM c",
            "CREATE TABLE t (a BIGINT NOT NULL DEFAULT 1 COMMENT 'c', b FLOAT(53), CHECK (a > 0)) PARTITIONED BY (a)",
            "PREPARE s FROM 'SELECT ?'; EXECUTE s USING @a; DEALLOCATE PREPARE s; EXPLAIN ANALYZE FORMAT=TREE SELECT 1",
            "SELECT a THROUGH 'mysql://h/d' FROM t VERSION AS OF 3; COPY INTO t FROM 'f' FILE_FORMAT = (TYPE = CSV)",
        ];
        let seed = one_of(rng, &seeds).as_bytes().to_vec();
        let text = mutated(rng, seed);
        let text = String::from_utf8_lossy(&text);
        for dialect in
            [SqlDialect::MySql { ansi_quotes: false }, SqlDialect::MySql { ansi_quotes: true }, SqlDialect::Ansi]
        {
            if let Ok(statements) = parse(&text, dialect) {
                let read: usize = statements.iter().map(|it| it.text.replace("<secret>", "").len()).sum();
                assert!(read <= text.len(), "{text}");
            }
        }
    });
}

#[test]
fn statements_about_accounts() {
    fuzz(|rng| {
        let seeds = [
            "CREATE USER IF NOT EXISTS 'u'@'h' IDENTIFIED WITH caching_sha2_password BY 'p' DEFAULT ROLE r ACCOUNT LOCK",
            "ALTER USER USER() IDENTIFIED BY 'p' REPLACE 'q' REQUIRE SSL PASSWORD EXPIRE NEVER COMMENT 'c'",
            "GRANT SELECT (a, `b`), SHOW VIEW ON `d\\_b`.t TO u@10.0.0.1, 'r'@'%' WITH GRANT OPTION",
            "REVOKE IF EXISTS ALL PRIVILEGES, GRANT OPTION FROM ''@'' IGNORE UNKNOWN USER",
            "SET DEFAULT ROLE ALL TO u; SET ROLE ALL EXCEPT r, s@h; SET PASSWORD FOR u = 0x70",
            "SHOW GRANTS FOR u@h USING r; SHOW CREATE USER CURRENT_USER(); RENAME USER a TO b@'%'",
        ];
        let seed = one_of(rng, &seeds).as_bytes().to_vec();
        let text = mutated(rng, seed);
        let text = String::from_utf8_lossy(&text);
        for ansi_quotes in [false, true] {
            if let Ok(statements) = parse(&text, SqlDialect::MySql { ansi_quotes }) {
                // What is shown of a statement is no longer than it, but for what stands in the place of passwords.
                let shown: usize = statements.iter().map(|it| it.text.replace("<secret>", "").len()).sum();
                assert!(shown <= text.len(), "{text}");
            }
        }
    });
}

#[test]
fn requests_for_tls() {
    fuzz(|rng| {
        let packet = mutated(rng, [&[32, 0, 0, 1][..], &(capability::TLS | 512).to_le_bytes(), &[0; 28]].concat());
        match asks_for_tls(&packet) {
            None => assert!(packet.len() < 8),
            Some(asks) => assert_eq!(asks, packet[..3] == [32, 0, 0] && packet[5] & 8 != 0),
        }
    });
}
