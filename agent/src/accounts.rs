//! Who we are at each place: as the owner's credentials file says, or a program that knows.

use std::time::Duration;

use tracing::warn;

use crate::auth::{AuthFile, Found, Login};
use crate::helper;
use crate::registries::{CREDENTIALS_FILE, Endpoint};
use crate::registry::Account;
use crate::sources::OpenError;

/// Where credentials may come from.
#[derive(Debug)]
pub(crate) struct Accounts<'a> {
    /// The owner's credentials file, and where it is from.
    pub(crate) file: Option<(AuthFile, &'a str)>,
    /// Who is asked, in this order: the file, and programs by their names.
    pub(crate) order: Vec<&'a str>,
    /// The programs that may be run.
    pub(crate) enabled: &'a [String],
    /// How long a program may take.
    pub(crate) deadline: Duration,
}

impl Accounts<'_> {
    /// Who we are at `endpoint`, and at no other host.
    ///
    /// As in the reference implementation, a program that fails does not keep the next from being
    /// asked; but if nobody knows better, nobody is anonymous instead.
    pub(crate) async fn at(&self, endpoint: &Endpoint) -> Result<Account, OpenError> {
        let mut failure = None;
        for name in &self.order {
            let asked = match *name {
                CREDENTIALS_FILE => self.of_file(endpoint).await,
                helper => {
                    self.of_optional(helper, &endpoint.host, "credential-helpers")
                        .await
                }
            };
            match asked {
                Ok(Some(account)) => return Ok(account),
                Ok(None) => {}
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        let Some((_, location)) = &self.file else {
            return failure.map_or_else(|| Ok(Account::default()), Err);
        };
        let origin = format!("without credentials, as {location} has none for it");
        let login = None;
        failure.map_or(Ok(Account { login, origin }), Err)
    }

    async fn of_file(&self, endpoint: &Endpoint) -> Result<Option<Account>, OpenError> {
        let Some((file, location)) = &self.file else {
            return Ok(None);
        };
        let host = endpoint.host.as_str();
        match file.find(host, &endpoint.repository) {
            Found::Login { key, login } => Ok(Some(Account {
                login: Some(login.clone()),
                origin: format!("with the credentials for {key:?} in {location}"),
            })),
            Found::Helper { helper } if self.is_enabled(helper) => {
                let login = helper::login(helper, host, self.deadline).await?;
                // Whatever it answers is final.
                Ok(Some(account_of(helper, login)))
            }
            Found::Helper { helper } => Err(OpenError::HelperNotEnabled {
                host: host.to_owned(),
                helper: helper.to_owned(),
            }),
            Found::Store { helper } => {
                self.of_optional(helper, store_key(host), "credsStore")
                    .await
            }
            Found::Nothing => Ok(None),
        }
    }

    /// What a program knows that is asked about every registry.
    async fn of_optional(
        &self,
        helper: &str,
        server: &str,
        key: &str,
    ) -> Result<Option<Account>, OpenError> {
        if !self.is_enabled(helper) {
            warn!(
                "docker-credential-{helper} of {key} is not asked for the registry credentials: \
                 image_agent.credential_helpers does not have {helper:?}"
            );
            return Ok(None);
        }
        let login = helper::login(helper, server, self.deadline).await?;
        Ok(login.map(|login| account_of(helper, Some(login))))
    }

    fn is_enabled(&self, helper: &str) -> bool {
        self.enabled.iter().any(|enabled| enabled == helper)
    }
}

fn account_of(helper: &str, login: Option<Login>) -> Account {
    let origin = match login {
        Some(_) => format!("with the credentials of docker-credential-{helper}"),
        None => format!("without credentials, as docker-credential-{helper} has none for it"),
    };
    Account { login, origin }
}

/// What a store has for docker.io, as docker wrote it there.
fn store_key(host: &str) -> &str {
    match host {
        "docker.io" => "https://index.docker.io/v1/",
        host => host,
    }
}
