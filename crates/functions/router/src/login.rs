//! Who may call routes, where the operator wants that: a name and a password buy a token, and
//! every call of a route needs one.
//!
//! Fission's protocol: `POST /auth/login` with `{username, password}` answers 201 with
//! `{accesstoken, tokentype}`, a JSON Web Token (HS256) that is sent as `Authorization: Bearer`.
//! Its key comes from the master secret, so that all routers take the tokens of each. Functions
//! do not see tokens: they could call others with them.

use farplane_functions_types::auth::{self, Service};
use http::header::AUTHORIZATION;
use http::{HeaderMap, StatusCode};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::state::Refusal;

/// Where tokens are got.
pub const PATH: &str = "/auth/login";
/// Longest body of a login, in bytes.
pub const LONGEST: usize = 4 << 10;
/// How long a token is good, in seconds.
const LIFETIME: u64 = 3600;
const ISSUER: &str = "fission";

/// Name and password of the user that may call routes.
#[derive(Clone, Deserialize)]
pub struct Credentials {
    /// Name.
    pub username: String,
    /// Password.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Credentials({})", self.username)
    }
}

#[derive(Serialize, Deserialize)]
struct Claims {
    username: String,
    iss: String,
    exp: u64,
}

/// What a login is answered with.
#[derive(Debug, Serialize, Deserialize)]
pub struct Token {
    /// The token.
    #[serde(rename = "accesstoken")]
    pub access_token: String,
    /// `Bearer`.
    #[serde(rename = "tokentype")]
    pub token_type: String,
}

/// Gives and checks tokens.
pub struct Login {
    wanted: Credentials,
    signs: EncodingKey,
    checks: DecodingKey,
    validation: Validation,
}

impl Login {
    /// For one user, with the master secret.
    pub fn new(wanted: Credentials, secret: &[u8]) -> Self {
        let key = auth::derive(secret, Service::RouterPublic, None);
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_issuer(&[ISSUER]);
        validation.set_required_spec_claims(&["exp", "iss"]);
        validation.leeway = 0;
        Self {
            wanted,
            signs: EncodingKey::from_secret(&key),
            checks: DecodingKey::from_secret(&key),
            validation,
        }
    }

    /// A token for this body of a login; `now` in seconds since 1970.
    ///
    /// # Errors
    /// When it is no login, or not that of the user.
    pub fn login(&self, body: &[u8], now: u64) -> Result<Token, Refusal> {
        let given: Credentials = serde_json::from_slice(body).map_err(|error| {
            let reason = format!("a login is {{\"username\": ..., \"password\": ...}}: {error}");
            Refusal::new(StatusCode::BAD_REQUEST, reason)
        })?;
        // Both always, so that time tells nothing.
        let name = same(&given.username, &self.wanted.username);
        if !(same(&given.password, &self.wanted.password) & name) {
            return Err(Refusal::new(
                StatusCode::UNAUTHORIZED,
                "name or password is wrong",
            ));
        }
        let claims = Claims {
            username: given.username,
            iss: ISSUER.to_owned(),
            exp: now + LIFETIME,
        };
        let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.signs);
        let access_token = token.map_err(|error| {
            let reason = format!("the token cannot be signed: {error}");
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, reason)
        })?;
        Ok(Token {
            access_token,
            token_type: "Bearer".to_owned(),
        })
    }

    /// Takes the token out of the headers of a call.
    ///
    /// # Errors
    /// When there is none that is good now.
    pub fn admit(&self, headers: &mut HeaderMap) -> Result<(), Refusal> {
        let refused = |reason: String| Refusal::new(StatusCode::UNAUTHORIZED, reason);
        let given = headers.remove(AUTHORIZATION);
        let given = given.as_ref().and_then(|value| value.to_str().ok());
        let token = given.and_then(|value| value.split_once(' '));
        let Some((_, token)) = token.filter(|(kind, _)| kind.eq_ignore_ascii_case("bearer")) else {
            let reason = format!("a token is needed: POST name and password to {PATH}");
            return Err(refused(reason));
        };
        jsonwebtoken::decode::<Claims>(token.trim(), &self.checks, &self.validation)
            .map(drop)
            .map_err(|error| refused(format!("the token is not good: {error}; log in again")))
    }
}

/// Compares in a time that does not depend on where two texts differ.
fn same(one: &str, other: &str) -> bool {
    let (one, other) = (Sha256::digest(one), Sha256::digest(other));
    let different = one
        .iter()
        .zip(other.iter())
        .fold(0, |all, (a, b)| all | (a ^ b));
    different == 0
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use serde_json::json;

    use super::*;

    fn guarded(secret: &[u8]) -> Login {
        let (username, password) = ("admin".to_owned(), "right".to_owned());
        Login::new(Credentials { username, password }, secret)
    }

    fn enter(login: &Login, username: &str, password: &str, now: u64) -> Result<Token, Refusal> {
        let body = json!({ "username": username, "password": password });
        login.login(body.to_string().as_bytes(), now)
    }

    fn admitted(login: &Login, value: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        let admitted = login.admit(&mut headers).is_ok();
        assert!(headers.is_empty(), "functions would see it");
        admitted
    }

    #[test]
    fn the_right_password_buys_a_token_that_every_router_takes() {
        let token = enter(&guarded(b"secret"), "admin", "right", auth::now()).unwrap();
        let other = guarded(b"secret");
        assert!(admitted(&other, &format!("Bearer {}", token.access_token)));
        assert!(admitted(&other, &format!("bearer {}", token.access_token)));
    }

    #[test]
    fn wrong_logins_buy_nothing() {
        let login = guarded(b"secret");
        for (name, password) in [("admin", "wrong"), ("other", "right"), ("admin", "")] {
            let refused = enter(&login, name, password, 0).unwrap_err();
            assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
            assert!(!refused.failure.reason.contains("right"));
        }
        let refused = login.login(b"{", 0).unwrap_err();
        assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    }

    #[test]
    fn other_tokens_are_refused() {
        let login = guarded(b"secret");
        let now = auth::now();
        let foreign = enter(&guarded(b"other"), "admin", "right", now).unwrap();
        let old = enter(&login, "admin", "right", now - 2 * LIFETIME).unwrap();
        let good = enter(&login, "admin", "right", now).unwrap().access_token;
        let (head, rest) = good.split_once('.').unwrap();
        let (claims, signature) = rest.split_once('.').unwrap();
        // {"alg":"none"} and {"alg":"HS512","typ":"JWT"}
        let unsigned = format!("eyJhbGciOiJub25lIn0.{claims}.");
        let other_algorithm = format!("eyJhbGciOiJIUzUxMiIsInR5cCI6IkpXVCJ9.{claims}.{signature}");
        let changed = format!("{head}.{}A.{signature}", &claims[..claims.len() - 1]);
        for token in [
            &foreign.access_token,
            &old.access_token,
            &unsigned,
            &other_algorithm,
            &changed,
            "",
        ] {
            assert!(!admitted(&login, &format!("Bearer {token}")), "{token}");
        }
        assert!(!admitted(&login, "Basic YWRtaW46cmlnaHQ="));
        assert!(!admitted(&login, &good));
        assert!(login.admit(&mut HeaderMap::new()).is_err());
    }
}
