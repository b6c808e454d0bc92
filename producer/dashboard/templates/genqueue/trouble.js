(function ($) {
    // A page stays as it was when its data cannot be had any more, and says so.
    $(document).ajaxError(function (event, xhr) {
        if (xhr.status !== 200) {  // rq-dashboard asks for a list of servers, and gets a page
            var why = xhr.status ? (xhr.responseJSON || {}).error : 'The dashboard does not answer: was it stopped?';
            $('#trouble').prop('hidden', false).text((why || 'The dashboard answers ' + xhr.status + '.') + ' What is below may be old.');
        }
    }).ajaxSuccess(function () {
        $('#trouble').prop('hidden', true);
    });
})($);
