//! The pages themselves, embedded in the program (`build.rs`): compressed once at the start, and told apart from earlier ones by a
//! hash over all of them, so that browsers may keep them for ever.
//!
//! `index.html` is served for every path that people can type, since the pages find out themselves what a path means; it names its
//! files by `__ASSETS__`, which becomes `/assets/{hash}`.

use crate::config::Environment;
use actix_web::http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, HeaderMap, IF_NONE_MATCH, VARY,
};
use actix_web::web::Bytes;
use actix_web::{HttpRequest, HttpResponse};
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Names a folder that pages are read from instead, at each request. Only debug builds know it.
pub const FOLDER_VARIABLE: &str = "KAFSCALE_TEST_CONSOLE_ASSETS";
/// What stands in `index.html` for the address of the other files.
const PLACE: &str = "__ASSETS__";
/// Files that are not compressed already, and large enough for it.
const COMPRESSED_BYTES_MIN: usize = 512;
const FOR_EVER: &str = "public, max-age=31536000, immutable";
const ASK_AGAIN: &str = "no-cache";

static EMBEDDED: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/console_assets.rs"));
static FOLDER: OnceLock<PathBuf> = OnceLock::new();

/// True if this build knows the variable.
pub fn is_choice(name: &str) -> bool {
    cfg!(debug_assertions) && name == FOLDER_VARIABLE
}

/// Takes [`FOLDER_VARIABLE`] from the environment, once per process.
pub fn choose(environment: &Environment) {
    if let Some((_, folder)) = environment.iter().find(|(name, _)| is_choice(name)) {
        FOLDER.get_or_init(|| folder.into());
    }
}

#[derive(Debug, Clone)]
struct File {
    content_type: &'static str,
    plain: Bytes,
    gzip: Option<Bytes>,
    etag: String,
}

/// All files.
#[derive(Debug)]
pub struct Assets {
    hash: String,
    files: BTreeMap<String, File>,
}

impl Assets {
    /// Those in this program.
    pub fn embedded() -> Self {
        Self::new(EMBEDDED.iter().map(|(name, bytes)| ((*name).to_owned(), Bytes::from_static(bytes))))
    }

    fn new(files: impl Iterator<Item = (String, Bytes)>) -> Self {
        let files: BTreeMap<String, Bytes> = files.collect();
        let mut hasher = Sha256::new();
        for (name, bytes) in &files {
            hasher.update(name.as_bytes());
            hasher.update((bytes.len() as u64).to_be_bytes());
            hasher.update(bytes);
        }
        let hash = hex(&hasher.finalize()[..8]);
        let place = format!("/assets/{hash}");
        let files = files.into_iter().map(|(name, bytes)| {
            let bytes = if name == "index.html" { placed(&bytes, &place) } else { bytes };
            let file = File::new(&name, bytes);
            (name, file)
        });
        Self { files: files.collect(), hash }
    }

    /// The hash in the files' addresses.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Answers GET of anything that is not the API.
    pub fn answer(&self, request: &HttpRequest) -> HttpResponse {
        let path = request.path();
        if let Some(folder) = FOLDER.get() {
            return from_folder(folder, path);
        }
        if let Some(rest) = path.strip_prefix("/assets/") {
            let file = rest.split_once('/').filter(|(hash, _)| *hash == self.hash);
            return match file.and_then(|(_, name)| self.files.get(name)) {
                Some(file) => file.answer(request.headers(), FOR_EVER),
                None => not_found(),
            };
        }
        let name = match path {
            "/favicon.ico" if self.files.contains_key("favicon.ico") => "favicon.ico",
            "/favicon.ico" => "favicon.svg",
            _ => "index.html",
        };
        match self.files.get(name) {
            Some(file) => file.answer(request.headers(), ASK_AGAIN),
            None => not_found(),
        }
    }
}

impl File {
    fn new(name: &str, plain: Bytes) -> Self {
        let content_type = content_type(name);
        let compressible = !content_type.starts_with("image/png") && !content_type.starts_with("font/");
        let gzip = (compressible && plain.len() >= COMPRESSED_BYTES_MIN).then(|| gzip(&plain));
        let etag = format!("\"{}\"", hex(&Sha256::digest(&plain)[..8]));
        Self { content_type, gzip: gzip.filter(|gzip| gzip.len() < plain.len()), plain, etag }
    }

    fn answer(&self, headers: &HeaderMap, cache: &'static str) -> HttpResponse {
        let named = |tags: &str| tags.split(',').any(|tag| tag.trim().trim_start_matches("W/") == self.etag);
        let known = headers.get(IF_NONE_MATCH).and_then(|tags| tags.to_str().ok()).is_some_and(named);
        let mut answer = if known { HttpResponse::NotModified() } else { HttpResponse::Ok() };
        answer.insert_header((ETAG, self.etag.clone()));
        answer.insert_header((CACHE_CONTROL, cache));
        answer.insert_header((VARY, "Accept-Encoding"));
        if known {
            return answer.finish();
        }
        answer.insert_header((CONTENT_TYPE, self.content_type));
        let accepts = headers.get(ACCEPT_ENCODING).and_then(|value| value.to_str().ok()).is_some_and(accepts_gzip);
        match &self.gzip {
            Some(gzip) if accepts => answer.insert_header((CONTENT_ENCODING, "gzip")).body(gzip.clone()),
            _ => answer.body(self.plain.clone()),
        }
    }
}

fn accepts_gzip(value: &str) -> bool {
    let refused = |rest: &str| rest.replace(' ', "").trim_end_matches(['0', '.']) == "q=";
    value.split(',').any(|coding| {
        let (name, rest) = coding.split_once(';').unwrap_or((coding, ""));
        matches!(name.trim(), "gzip" | "*") && !refused(rest)
    })
}

fn gzip(plain: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(plain).expect("writing to memory");
    Bytes::from(encoder.finish().expect("writing to memory"))
}

fn placed(html: &[u8], place: &str) -> Bytes {
    Bytes::from(String::from_utf8_lossy(html).replace(PLACE, place))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn not_found() -> HttpResponse {
    HttpResponse::NotFound().insert_header((CACHE_CONTROL, "no-store")).content_type("text/plain").body("not found\n")
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map_or("", |(_, ending)| ending) {
        "html" => "text/html; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "ico" => "image/x-icon",
        "woff2" => "font/woff2",
        "json" | "map" => "application/json",
        "webmanifest" => "application/manifest+json",
        "txt" | "md" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

/// For those who write pages: what is in the folder now, not compressed, not kept.
fn from_folder(folder: &Path, path: &str) -> HttpResponse {
    let name = match path.strip_prefix("/assets/").and_then(|rest| rest.split_once('/')) {
        Some((_, name)) => name,
        None if path == "/favicon.ico" => "favicon.svg",
        None => "index.html",
    };
    if name.split('/').any(|part| part.starts_with('.')) {
        return not_found();
    }
    let Ok(bytes) = std::fs::read(folder.join(name)) else { return not_found() };
    let bytes = if name == "index.html" { placed(&bytes, "/assets/live") } else { Bytes::from(bytes) };
    let mut answer = HttpResponse::Ok();
    answer.insert_header((CACHE_CONTROL, "no-store")).insert_header((CONTENT_TYPE, content_type(name))).body(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::body::to_bytes;
    use actix_web::test::TestRequest;

    fn assets() -> Assets {
        let files = [
            ("index.html", "<script type=module src=\"__ASSETS__/app/main.js\"></script>".to_owned()),
            ("app/main.js", "export const x = 1;\n".repeat(100)),
            ("favicon.svg", "<svg/>".to_owned()),
        ];
        Assets::new(files.into_iter().map(|(name, text)| (name.to_owned(), Bytes::from(text))))
    }

    fn text(answer: HttpResponse) -> String {
        let body = actix_rt::System::new().block_on(to_bytes(answer.into_body())).unwrap();
        String::from_utf8(body.to_vec()).unwrap()
    }

    #[test]
    fn the_first_page_names_files_by_their_hash_and_is_asked_for_again() {
        let assets = assets();
        for path in ["/", "/topics/a/messages", "/anything"] {
            let answer = assets.answer(&TestRequest::get().uri(path).to_http_request());
            assert_eq!(answer.headers().get(CACHE_CONTROL).unwrap(), ASK_AGAIN);
            let expected = format!("<script type=module src=\"/assets/{}/app/main.js\"></script>", assets.hash());
            assert_eq!(text(answer), expected);
        }
        let icon = assets.answer(&TestRequest::get().uri("/favicon.ico").to_http_request());
        assert_eq!(icon.headers().get(CONTENT_TYPE).unwrap(), "image/svg+xml");
    }

    #[test]
    fn files_are_compressed_for_those_who_take_it_and_kept_for_ever() {
        let assets = assets();
        let uri = format!("/assets/{}/app/main.js", assets.hash());
        let ask = |headers: &[(&str, &str)]| {
            let request = headers.iter().fold(TestRequest::get().uri(&uri), |request, h| request.insert_header(*h));
            assets.answer(&request.to_http_request())
        };
        let plain = ask(&[]);
        assert_eq!(plain.headers().get(CACHE_CONTROL).unwrap(), FOR_EVER);
        let etag = plain.headers().get(ETAG).unwrap().to_str().unwrap().to_owned();
        assert_eq!(text(plain).len(), 2_000);
        let packed = ask(&[("Accept-Encoding", "br, gzip;q=0.8")]);
        assert_eq!(packed.headers().get(CONTENT_ENCODING).unwrap(), "gzip");
        let bytes = actix_rt::System::new().block_on(to_bytes(packed.into_body())).unwrap();
        assert!(bytes.len() < 200, "{}", bytes.len());
        assert!(ask(&[("Accept-Encoding", "gzip;q=0")]).headers().get(CONTENT_ENCODING).is_none());
        assert_eq!(ask(&[("If-None-Match", &etag)]).status(), 304);
        let old = assets.answer(&TestRequest::get().uri("/assets/0123456789abcdef/app/main.js").to_http_request());
        assert_eq!(old.status(), 404, "files of another version are not mistaken for these");
    }

    #[test]
    fn every_embedded_file_has_a_type() {
        for (name, _) in EMBEDDED {
            assert_ne!(content_type(name), "application/octet-stream", "{name}");
        }
    }
}
