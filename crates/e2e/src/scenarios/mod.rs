//! The scenarios, in lanes, and in the order in which they run there.

mod bad_days;
mod chart;
mod clocks;
mod deletion;
mod functions;
mod hub;
mod outages;
mod proxy;
mod registry;
mod security;
mod troubles;
mod workloads;

use anyhow::Result;

use crate::world::World;

/// One behaviour, proved end to end.
pub struct Scenario {
    /// What is true when it passes.
    pub name: &'static str,
    /// Later scenarios need what it makes.
    pub set_up: bool,
    /// Takes the hub away.
    pub tear_down: bool,
    /// The proof.
    pub body: fn(&World) -> Result<()>,
}

const fn scenario(name: &'static str, body: fn(&World) -> Result<()>) -> Scenario {
    Scenario {
        name,
        set_up: false,
        tear_down: false,
        body,
    }
}

const fn set_up(name: &'static str, body: fn(&World) -> Result<()>) -> Scenario {
    Scenario {
        name,
        set_up: true,
        tear_down: false,
        body,
    }
}

/// Scenarios that run one after the other, on a hub of their own.
pub struct Lane {
    /// Ending of the hub's name.
    pub name: &'static str,
    /// In order: later ones may need what earlier ones left.
    pub scenarios: Vec<Scenario>,
}

/// Every scenario, in lanes that run beside each other: most of the time of each is waiting.
pub fn all() -> [Lane; 2] {
    [
        Lane {
            name: "",
            scenarios: of_hosting(),
        },
        Lane {
            name: "-functions",
            scenarios: of_functions(),
        },
    ]
}

#[expect(clippy::too_many_lines, reason = "one ordered list")]
fn of_hosting() -> Vec<Scenario> {
    vec![
        set_up("a_hub_comes_up_on_a_bare_machine", hub::comes_up),
        set_up("an_organization_gets_its_namespace", hub::organization),
        set_up("two_lab_hosts_join", hub::lab_hosts_join),
        set_up("a_cluster_becomes_ready_on_both_hosts", hub::cluster),
        scenario("describe_tells_each_phase_with_its_time", hub::describe),
        scenario("up_again_changes_nothing", hub::up_again),
        scenario("wrong_requests_are_refused_in_words", hub::refusals),
        set_up(
            "a_deployment_spreads_over_both_hosts",
            workloads::deployment,
        ),
        scenario(
            "services_answer_by_name_across_hosts",
            workloads::service_by_name,
        ),
        scenario(
            "logs_exec_and_port_forward_work",
            workloads::logs_exec_port_forward,
        ),
        scenario("nodes_pull_images_from_the_hub", registry::pulls),
        scenario("a_webhook_in_the_cluster_decides", workloads::webhook),
        scenario(
            "an_aggregated_api_in_the_cluster_answers",
            workloads::aggregated_api,
        ),
        scenario(
            "the_chart_makes_a_hub_on_a_farplane_made_cluster",
            chart::installs,
        ),
        scenario("anonymous_requests_are_refused", security::anonymous),
        scenario("secrets_are_encrypted_at_rest", security::secrets_at_rest),
        scenario(
            "a_tenant_reaches_nothing_at_the_hub_by_node_address",
            security::node_address,
        ),
        scenario(
            "a_tenant_reaches_nothing_at_the_hub_by_webhook",
            security::webhook_url,
        ),
        scenario(
            "a_tenant_reaches_nothing_at_the_hub_by_api_service",
            security::api_service,
        ),
        scenario("colliding_names_stay_apart", security::colliding_names),
        scenario(
            "join_tokens_work_once_and_only_for_their_organization",
            security::tokens,
        ),
        scenario("a_host_joins_through_a_proxy", proxy::joins),
        scenario("the_agent_dies_and_pods_go_on", bad_days::agent_killed),
        scenario("the_gateway_dies_and_comes_back", bad_days::gateway_killed),
        scenario(
            "the_api_server_dies_and_comes_back",
            bad_days::api_server_killed,
        ),
        scenario("etcd_dies_and_nothing_is_lost", bad_days::etcd_killed),
        scenario(
            "the_controllers_die_and_come_back",
            bad_days::controllers_killed,
        ),
        scenario("the_hub_stops_and_pods_go_on", bad_days::hub_stopped),
        scenario("the_network_is_cut_and_restored", outages::network_cut),
        scenario(
            "a_site_that_is_cut_off_keeps_its_pods",
            outages::site_cut_off,
        ),
        scenario(
            "the_agent_is_upgraded_and_pods_go_on",
            outages::agent_upgraded,
        ),
        scenario("several_gateways_serve_one_host", outages::several_gateways),
        scenario("one_of_three_replicas_dies", outages::three_replicas),
        scenario("a_cluster_beyond_the_limit_waits", outages::quota),
        scenario(
            "a_host_that_is_away_cleans_itself_when_back",
            outages::host_away_at_deletion,
        ),
        scenario("a_port_in_use_is_named", troubles::port_in_use),
        scenario("a_full_disk_is_named_and_heals", troubles::full_disk),
        scenario(
            "clocks_ten_minutes_apart_still_join",
            clocks::ten_minutes_apart,
        ),
        scenario("a_cluster_is_deleted_to_nothing", deletion::cluster),
        scenario("a_host_is_removed_to_nothing", deletion::host),
        scenario(
            "an_organization_is_deleted_to_nothing",
            deletion::organization,
        ),
        purge(),
    ]
}

#[expect(clippy::too_many_lines, reason = "one ordered list")]
fn of_functions() -> Vec<Scenario> {
    vec![
        set_up("a_hub_for_functions_comes_up", hub::comes_up),
        set_up("it_gets_an_organization", hub::organization),
        set_up("it_gets_two_lab_hosts", hub::lab_hosts_join),
        set_up("it_gets_a_cluster", hub::cluster),
        set_up("it_gets_a_deployment", workloads::deployment),
        scenario("functions_are_installed", functions::installed),
        scenario("functions_in_python_answer", functions::python),
        scenario("functions_in_nodejs_answer", functions::nodejs),
        scenario("functions_that_do_not_load_say_why", functions::broken),
        scenario(
            "functions_that_fail_say_how",
            functions::troubles::code_that_fails,
        ),
        scenario(
            "functions_without_an_image_say_so",
            functions::troubles::image_that_is_not_there,
        ),
        scenario(
            "functions_that_cannot_be_built_tell_the_log",
            functions::troubles::build_that_fails,
        ),
        scenario(
            "functions_that_are_deleted_finish_their_calls",
            functions::troubles::deleted_while_it_serves,
        ),
        scenario(
            "functions_have_no_token_of_the_cluster",
            functions::no_token,
        ),
        scenario(
            "functions_refuse_what_leaves_a_namespace",
            functions::attacks,
        ),
        scenario(
            "functions_answer_while_the_executor_is_away",
            functions::executor_away,
        ),
        scenario(
            "functions_answer_when_an_instance_is_killed",
            functions::instance_killed,
        ),
        scenario(
            "functions_with_a_deployment_go_to_zero_and_back",
            functions::executors::newdeploy,
        ),
        scenario(
            "functions_can_be_any_image",
            functions::executors::container,
        ),
        scenario(
            "functions_are_built_with_their_dependencies",
            functions::builds::dependency,
        ),
        scenario("functions_work_as_the_guide_says", functions::guide::own),
        scenario(
            "functions_and_fissions_own_command_work_as_the_guide_says",
            functions::guide::fission,
        ),
        scenario("functions_are_called_later", functions::triggers::later),
        scenario(
            "functions_are_called_by_a_timer",
            functions::triggers::timer,
        ),
        scenario("functions_are_told_of_changes", functions::triggers::watch),
        scenario(
            "functions_answer_while_the_platform_is_killed",
            functions::load::killed,
        ),
        scenario(
            "functions_answer_while_the_api_server_is_killed",
            functions::load::api_server,
        ),
        scenario(
            "functions_answer_while_a_thousand_routes_change",
            functions::load::routes,
        ),
        scenario(
            "functions_answer_while_the_platform_is_upgraded",
            functions::load::upgrade,
        ),
        scenario(
            "functions_answer_beside_clients_that_are_slow_or_vanish",
            functions::lost::rude_clients,
        ),
        scenario(
            "functions_answer_when_a_node_is_lost",
            functions::lost::node,
        ),
        scenario(
            "functions_are_uninstalled_to_nothing",
            functions::uninstalled,
        ),
        purge(),
    ]
}

fn purge() -> Scenario {
    Scenario {
        name: "a_hub_is_purged",
        set_up: true,
        tear_down: true,
        body: deletion::purge,
    }
}
