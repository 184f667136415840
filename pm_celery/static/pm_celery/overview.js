// Fetches the page again at a chosen pace, and puts its overview in place of this one. Nothing is fetched while
// the tab is hidden; when it is shown again, at once.
"use strict";

(() => {
    const REMEMBERED_AS = "pm_celery.overview.pace";
    const form = document.querySelector("#pm-overview .pm-refresh");
    if (!form) {
        return;
    }
    const pace = form.querySelector("select");
    const notRefreshed = form.querySelector(".pm-not-refreshed");
    let timer = null;
    let isFetching = false;

    // A browser may forbid its storage; then the pace lasts as long as the page.
    function remembered() {
        try {
            return localStorage.getItem(REMEMBERED_AS);
        } catch {
            return null;
        }
    }

    function remember(value) {
        try {
            localStorage.setItem(REMEMBERED_AS, value);
        } catch {
            // See above.
        }
    }

    function plan() {
        clearTimeout(timer);
        timer = null;
        const seconds = Number(pace.value);
        if (seconds > 0 && !document.hidden) {
            timer = setTimeout(refresh, seconds * 1000);
        }
    }

    async function refresh() {
        if (isFetching) {
            return;
        }
        isFetching = true;
        let fresh = null;
        try {
            const answer = await fetch(window.location.href, {credentials: "same-origin"});
            const text = answer.ok ? await answer.text() : "";
            fresh = new DOMParser().parseFromString(text, "text/html").getElementById("pm-overview-live");
        } catch {
            // The server does not answer: told below, and tried again.
        }
        isFetching = false;
        notRefreshed.hidden = fresh !== null;
        if (fresh !== null) {
            show(fresh);
        }
        plan();
    }

    function show(fresh) {
        const old = document.getElementById("pm-overview-live");
        const href = old.contains(document.activeElement) && document.activeElement.getAttribute("href");
        // Scrolled sideways, a table stays so.
        const scrolled = [...old.querySelectorAll(".pm-scroll")].map((box) => box.scrollLeft);
        old.replaceWith(fresh);
        fresh.querySelectorAll(".pm-scroll").forEach((box, at) => {
            box.scrollLeft = scrolled[at] || 0;
        });
        if (href) {
            fresh.querySelector(`a[href="${CSS.escape(href)}"]`)?.focus({preventScroll: true});
        }
    }

    const before = remembered();
    if ([...pace.options].some((option) => option.value === before)) {
        pace.value = before;
    }
    pace.addEventListener("change", () => {
        remember(pace.value);
        plan();
    });
    document.addEventListener("visibilitychange", () => {
        if (!document.hidden && Number(pace.value) > 0) {
            refresh();
        } else {
            plan();
        }
    });
    form.hidden = false;
    plan();
})();
