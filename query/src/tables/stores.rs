//! Object stores: from a location's address and a table's options to a store, here and on the workers.
//!
//! A store is known to DataFusion by a URL. Where a table brings options of its own, credentials above all, the URL has
//! a number of this process instead of the plain scheme, so that two tables never share a store that only one of them
//! has the keys of. The number says nothing of the options, and plans show nothing else.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::RuntimeEnv;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::http::HttpBuilder;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sheaf_planners::parser::is_secret_name;
use url::Url;

use super::TableError;
use super::data_cache::DataCache;

/// From the first byte of a request to the last of its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often, and for how long, a request is made again that failed in a way that may pass.
const RETRIES_MAX: usize = 5;
const RETRY_TIMEOUT: Duration = Duration::from_secs(60);
/// What a name of an option of a store begins with, beside the scheme's own.
const PREFIXES: [(&str, StoreKind); 6] = [
    ("s3.", StoreKind::S3),
    ("aws.", StoreKind::S3),
    ("gcs.", StoreKind::Gcs),
    ("google.", StoreKind::Gcs),
    ("azure.", StoreKind::Azure),
    ("http.", StoreKind::Http),
];

/// What speaks behind an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    S3,
    Gcs,
    Azure,
    Http,
}

impl StoreKind {
    fn of_scheme(scheme: &str) -> Option<Self> {
        match scheme {
            "s3" | "s3a" => Some(Self::S3),
            "gs" | "gcs" => Some(Self::Gcs),
            "az" | "azure" | "abfs" | "abfss" => Some(Self::Azure),
            "http" | "https" => Some(Self::Http),
            _ => None,
        }
    }

    /// As messages call it and options begin.
    pub fn name(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Gcs => "gcs",
            Self::Azure => "azure",
            Self::Http => "http",
        }
    }
}

/// Whether a location is an address and not a path on this machine's disk.
pub fn is_remote(location: &str) -> bool {
    location.split_once("://").is_some_and(|(scheme, _)| StoreKind::of_scheme(&scheme.to_ascii_lowercase()).is_some())
}

/// Whether an option is one of a store and not of a file format.
pub fn is_store_option(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    PREFIXES.iter().any(|(prefix, _)| name.starts_with(prefix))
}

/// The kind of store that all of these options are for, by their names with prefix.
///
/// Errs when there is no option, and on one that is for no store, for another one, or not known. Values are looked at
/// when there is a location to open.
pub fn kind_of_options(options: &BTreeMap<String, String>) -> Result<StoreKind, TableError> {
    let mut found: Option<StoreDef> = None;
    for option in options.keys() {
        let Some((prefix, kind)) = PREFIXES.iter().find(|(prefix, _)| option.starts_with(prefix)) else {
            return Err(TableError::invalid(format!("option '{option}' is not for an object store")));
        };
        let address = format!("{} stores", kind.name());
        let of = found.get_or_insert_with(|| StoreDef { kind: *kind, address, options: BTreeMap::new() });
        if of.kind != *kind {
            return Err(TableError::invalid(format!("option '{option}' is not for {}", of.address)));
        }
        of.check_option(&option[prefix.len()..])?;
    }
    found.map(|it| it.kind).ok_or_else(|| TableError::invalid("it has no option"))
}

/// What a store is opened with. Equal definitions are one store.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StoreDef {
    pub kind: StoreKind,
    /// Bucket, container or host, as a URL without a path: `s3://bucket`.
    pub address: String,
    /// By their names without prefix. Holds secrets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
}

impl fmt::Debug for StoreDef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&String> = self.options.keys().collect();
        f.debug_struct("StoreDef").field("address", &self.address).field("options", &names).finish()
    }
}

impl StoreDef {
    /// The store of an address, with those of a table's `options` that are for stores; and the path within it.
    ///
    /// Errs when the address or an option makes no sense. Values are in no message: any of them may be a secret.
    pub fn of<'a>(
        location: &str,
        options: impl IntoIterator<Item = (&'a String, &'a String)>,
    ) -> Result<(Self, String), TableError> {
        let wrong = |reason: String| TableError::invalid(format!("location '{}' {reason}", without_secrets(location)));
        // A pattern's question mark begins no query part, and its brackets are no address.
        let (scheme, rest) = location.split_once("://").ok_or_else(|| wrong("has no scheme".to_owned()))?;
        let scheme = scheme.to_ascii_lowercase();
        let kind = StoreKind::of_scheme(&scheme).ok_or_else(|| wrong(format!("has the unknown scheme '{scheme}'")))?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if authority.is_empty() {
            return Err(wrong("names no bucket or host".to_owned()));
        }
        if kind != StoreKind::Azure && authority.contains('@') {
            return Err(wrong("has a user in it: credentials go into OPTIONS".to_owned()));
        }
        let address = format!("{scheme}://{authority}");
        Url::parse(&address).map_err(|error| wrong(format!("is not an address: {error}")))?;
        let mut kept = BTreeMap::new();
        for (name, value) in options {
            let lower = name.to_ascii_lowercase();
            let Some((prefix, of_kind)) = PREFIXES.iter().find(|(prefix, _)| lower.starts_with(prefix)) else {
                continue;
            };
            if *of_kind != kind {
                return Err(TableError::invalid(format!("option '{name}' is not for a location of {scheme}://")));
            }
            kept.insert(lower[prefix.len()..].to_owned(), value.clone());
        }
        let def = Self { kind, address, options: kept };
        // What is wrong with an option shows here and not at the first query.
        def.build()?;
        Ok((def, path.to_owned()))
    }

    /// Opens the store, behind the node's cache if it has one. No request is made.
    fn open(&self, cache: Option<&Arc<DataCache>>) -> Result<Arc<dyn ObjectStore>, TableError> {
        let store = self.build()?;
        let Some(cache) = cache else { return Ok(store) };
        // With all options: who has other credentials may read other things.
        let identity = serde_json::to_vec(self).map_err(|error| TableError::unreadable(&self.address, error))?;
        Ok(cache.wrap(store, &identity))
    }

    /// Opens the store itself. No request is made.
    ///
    /// Options win over the environment of this process, from which what they leave out is taken; a table with keys of
    /// its own takes none from there.
    fn build(&self) -> Result<Arc<dyn ObjectStore>, TableError> {
        let failed = |error: object_store::Error| {
            TableError::invalid(format!("cannot open {}: {}", self.address, self.hide_secrets(&error.to_string())))
        };
        let has_own_keys = self.options.keys().any(|it| is_secret_name(it));
        let client = ClientOptions::new()
            .with_timeout(REQUEST_TIMEOUT)
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_allow_http(self.kind == StoreKind::Http || self.allows_http());
        let retry =
            RetryConfig { backoff: BackoffConfig::default(), max_retries: RETRIES_MAX, retry_timeout: RETRY_TIMEOUT };
        let options = self.options.iter().filter(|(name, _)| name.as_str() != "allow_http");
        Ok(match self.kind {
            StoreKind::S3 => {
                let mut builder = if has_own_keys { AmazonS3Builder::new() } else { AmazonS3Builder::from_env() };
                builder = builder.with_url(&self.address).with_client_options(client).with_retry(retry);
                for (name, value) in options {
                    let (name, value) = match (name.as_str(), value.to_ascii_lowercase().as_str()) {
                        ("path_style", "true") => ("virtual_hosted_style_request", "false".to_owned()),
                        ("path_style", "false") => ("virtual_hosted_style_request", "true".to_owned()),
                        ("anonymous", _) => ("skip_signature", value.clone()),
                        (name, _) => (name, value.clone()),
                    };
                    builder = builder.with_config(self.key(AmazonS3ConfigKey::from_str, name)?, value);
                }
                Arc::new(builder.build().map_err(failed)?)
            }
            StoreKind::Gcs => {
                let from_env = GoogleCloudStorageBuilder::from_env;
                let mut builder = if has_own_keys { GoogleCloudStorageBuilder::new() } else { from_env() };
                builder = builder.with_url(&self.address).with_client_options(client).with_retry(retry);
                for (name, value) in options {
                    builder = builder.with_config(self.key(GoogleConfigKey::from_str, name)?, value);
                }
                Arc::new(builder.build().map_err(failed)?)
            }
            StoreKind::Azure => {
                let from_env = MicrosoftAzureBuilder::from_env;
                let mut builder = if has_own_keys { MicrosoftAzureBuilder::new() } else { from_env() };
                builder = builder.with_url(&self.address).with_client_options(client).with_retry(retry);
                for (name, value) in options {
                    builder = builder.with_config(self.key(AzureConfigKey::from_str, name)?, value);
                }
                Arc::new(builder.build().map_err(failed)?)
            }
            StoreKind::Http => {
                if let Some(name) = self.options.keys().next() {
                    return Err(self.no_option(name));
                }
                let builder = HttpBuilder::new().with_url(&self.address).with_client_options(client).with_retry(retry);
                Arc::new(builder.build().map_err(failed)?)
            }
        })
    }

    /// Errs on the name of an option that this kind of store does not have.
    fn check_option(&self, name: &str) -> Result<(), TableError> {
        match (self.kind, name) {
            (StoreKind::Http, _) => Err(self.no_option(name)),
            (_, "allow_http") | (StoreKind::S3, "path_style" | "anonymous") => Ok(()),
            (StoreKind::S3, _) => self.key(AmazonS3ConfigKey::from_str, name).map(|_| ()),
            (StoreKind::Gcs, _) => self.key(GoogleConfigKey::from_str, name).map(|_| ()),
            (StoreKind::Azure, _) => self.key(AzureConfigKey::from_str, name).map(|_| ()),
        }
    }

    fn key<K, E>(&self, parse: impl Fn(&str) -> Result<K, E>, name: &str) -> Result<K, TableError> {
        // What names a file or an address of the server's is the operator's to set: a client could read both by it.
        // `service_account` is another name of `service_account_path`.
        let is_servers = ["_file", "_path", "service_account"].iter().any(|it| name.ends_with(it))
            || name.contains("metadata_endpoint");
        match parse(name) {
            Ok(key) if !is_servers => Ok(key),
            _ => Err(self.no_option(name)),
        }
    }

    fn no_option(&self, name: &str) -> TableError {
        TableError::invalid(format!("a location of {} has no option '{}.{name}'", self.address, self.kind.name()))
    }

    fn allows_http(&self) -> bool {
        match self.options.get("allow_http") {
            Some(text) => text.eq_ignore_ascii_case("true"),
            // Who names an endpoint without TLS means it.
            None => {
                let is_plain = |url: &String| url.to_ascii_lowercase().starts_with("http://");
                let of_env = || {
                    let names = ["AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AZURE_STORAGE_ENDPOINT", "GOOGLE_BASE_URL"];
                    names.iter().any(|it| std::env::var(it).is_ok_and(|url| is_plain(&url)))
                };
                self.options
                    .iter()
                    .any(|(name, url)| (name.contains("endpoint") || name.contains("url")) && is_plain(url))
                    || of_env()
            }
        }
    }

    /// A text of the library's with no option's value in it.
    fn hide_secrets(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (name, value) in &self.options {
            if is_secret_name(name) && !value.is_empty() {
                text = text.replace(value.as_str(), "***");
            }
        }
        text
    }
}

/// An address as messages show it: without the user and password that somebody may have put there.
fn without_secrets(location: &str) -> String {
    let Some((scheme, rest)) = location.split_once("://") else { return location.to_owned() };
    let (authority, path) = rest.split_once('/').map_or((rest, String::new()), |(it, path)| (it, format!("/{path}")));
    let shown = authority.rsplit_once('@').map_or(authority.to_owned(), |(_, host)| format!("***@{host}"));
    let path = path.split_once('?').map_or(path.clone(), |(path, _)| path.to_owned());
    format!("{scheme}://{shown}{path}")
}

/// The stores that a process has opened; one per process.
pub struct Stores {
    runtime: Arc<RuntimeEnv>,
    cache: Option<Arc<DataCache>>,
    /// What no other process has.
    id: String,
    opened: Mutex<Opened>,
}

#[derive(Default)]
struct Opened {
    urls: HashMap<StoreDef, ObjectStoreUrl>,
    defs: HashMap<ObjectStoreUrl, StoreDef>,
}

impl fmt::Debug for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stores").field("opened", &self.opened.lock().urls.len()).finish_non_exhaustive()
    }
}

impl Stores {
    /// Stores are made known to `runtime`, and read through `cache` if there is one.
    pub fn new(runtime: Arc<RuntimeEnv>, cache: Option<Arc<DataCache>>) -> Self {
        let id = uuid::Uuid::new_v4().simple().to_string();
        Self { runtime, cache, id, opened: Mutex::default() }
    }

    /// Opens a store, or finds it open.
    pub fn open(&self, def: &StoreDef) -> Result<(ObjectStoreUrl, Arc<dyn ObjectStore>), TableError> {
        let mut opened = self.opened.lock();
        let failed = |error: datafusion::error::DataFusionError| TableError::unreadable(def.address.clone(), error);
        if let Some(url) = opened.urls.get(def) {
            return Ok((url.clone(), self.runtime.object_store(url).map_err(failed)?));
        }
        let store = def.open(self.cache.as_ref())?;
        let (scheme, authority) = def.address.split_once("://").unwrap_or(("", ""));
        let url = match def.options.is_empty() {
            true => def.address.clone(),
            false => format!("{scheme}-{}-{}://{authority}", self.id, opened.urls.len()),
        };
        let url = ObjectStoreUrl::parse(url).map_err(failed)?;
        self.runtime.register_object_store(url.as_ref(), Arc::clone(&store));
        opened.urls.insert(def.clone(), url.clone());
        opened.defs.insert(url.clone(), def.clone());
        Ok((url, store))
    }

    /// What a worker needs to open the store of a scan: nothing for local files. Holds secrets.
    pub fn definition(&self, url: &ObjectStoreUrl) -> Option<StoreDef> {
        self.opened.lock().defs.get(url).cloned()
    }
}

/// Makes a store that a coordinator has opened known to this process, under the same name and behind its own cache.
///
/// Errs when it cannot be opened here, such as for want of credentials in the environment.
pub fn adopt(
    runtime: &RuntimeEnv,
    cache: Option<&Arc<DataCache>>,
    url: &str,
    def: &StoreDef,
) -> Result<(), TableError> {
    let parsed = ObjectStoreUrl::parse(url).map_err(|error| TableError::unreadable(def.address.clone(), error))?;
    // The name is one process's own for one definition: what is there is the same.
    if runtime.object_store(&parsed).is_err() {
        runtime.register_object_store(parsed.as_ref(), def.open(cache)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn def(location: &str, options: &[(&str, &str)]) -> Result<(StoreDef, String), TableError> {
        let options: Vec<(String, String)> =
            options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        StoreDef::of(location, options.iter().map(|(name, value)| (name, value)))
    }

    #[test]
    fn addresses_name_stores() {
        for (location, kind, address, path) in [
            ("s3://b/a/x*.parquet", StoreKind::S3, "s3://b", "a/x*.parquet"),
            ("S3://b", StoreKind::S3, "s3://b", ""),
            ("gs://b/a?.csv", StoreKind::Gcs, "gs://b", "a?.csv"),
            ("https://h:1/a.csv", StoreKind::Http, "https://h:1", "a.csv"),
        ] {
            let (found, rest) = def(location, &[("format.has_header", "true")]).unwrap();
            assert_eq!((found.kind, found.address.as_str(), rest.as_str()), (kind, address, path));
            assert!(is_remote(location) && found.options.is_empty());
        }
        assert!(!is_remote("/a/b") && !is_remote("file:///a") && !is_remote("a://b"));
        assert!(is_store_option("S3.endpoint") && !is_store_option("format.delimiter") && !is_store_option("header"));
    }

    #[test]
    fn options_are_checked() {
        for (location, options, part) in [
            ("s3:///a", vec![], "names no bucket"),
            ("s3://u:secret@b/a", vec![], "has a user in it"),
            ("s3://b/a", vec![("gcs.token", "x")], "is not for a location of s3://"),
            ("s3://b/a", vec![("s3.no_such", "x")], "has no option 's3.no_such'"),
            ("s3://b/a", vec![("s3.web_identity_token_file", "/etc/passwd")], "has no option"),
            ("gs://b/a", vec![("gcs.service_account_path", "/etc/passwd")], "has no option"),
            ("https://h/a", vec![("http.x", "y")], "has no option"),
        ] {
            let error = def(location, &options).unwrap_err().to_string();
            assert!(error.contains(part) && !error.contains("secret"), "{location}: {error}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let options = [("s3.secret_access_key", "hush"), ("s3.access_key_id", "who"), ("s3.region", "here")];
        let (found, _) = def("s3://b/a", &options).unwrap();
        let text = format!("{found:?}");
        assert!(text.contains("secret_access_key") && !text.contains("hush") && !text.contains("who"), "{text}");
        let error = def("gs://b/a", &[("gcs.service_account_key", "hush")]).unwrap_err().to_string();
        assert!(!error.contains("hush"), "{error}");
    }

    #[test]
    fn what_differs_in_options_is_another_store() {
        let runtime = Arc::new(RuntimeEnv::default());
        let stores = Stores::new(Arc::clone(&runtime), None);
        let open = |key: &str| {
            let options =
                [("s3.access_key_id", key), ("s3.secret_access_key", "x"), ("s3.endpoint", "http://localhost:1")];
            stores.open(&def("s3://b/a", &options).unwrap().0).unwrap().0
        };
        assert_eq!(open("one"), open("one"));
        assert_ne!(open("one"), open("two"));
        let found = stores.definition(&open("one")).unwrap();
        assert_eq!(found.options["access_key_id"], "one");
        assert!(stores.definition(&ObjectStoreUrl::local_filesystem()).is_none());
        // Another process takes the definition over under the same name.
        let other = RuntimeEnv::default();
        adopt(&other, None, open("one").as_str(), &found).unwrap();
        assert!(other.object_store(open("one")).is_ok());
    }
}
