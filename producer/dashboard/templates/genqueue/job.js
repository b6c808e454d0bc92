(function ($) {
    // Each time in the reader's own zone, and how long ago it is. Without a script it is there in UTC.
    var showTimes = function () {
        $('#job-data time').each(function () {
            var at = new Date(this.dateTime);
            this.title = this.textContent;
            this.textContent = at.toLocaleString(undefined, {dateStyle: 'medium', timeStyle: 'long'}) + ' (' + at.relative() + ')';
        });
    };

    // The page itself is asked for again, until the job has ended.
    var reload = function () {
        $('#job-data').load(location.pathname + ' #job-data > *', showTimes);
    };

    setInterval(function () {
        if (AUTOREFRESH_FLAG && $('#job-data [data-ended=no]').length) {
            reload();
        }
    }, POLL_INTERVAL);

    $('#job-data').on('click', '#requeue-job-btn', function () {
        $.post(url_for('requeue_job', {{ id|tojson|safe }})).done(reload);
    });

    showTimes();
})($);
